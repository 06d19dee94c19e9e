"""Checkpoints, initial values, and whole tensors out of trained parts: safetensors in, numpy out.

A checkpoint is one safetensors file: every state slot by name, and in the header who it belongs to,
the step, and a digest of the values. It carries no graph and no frozen weight.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..errors import ArtifactError, listing
from .manifest import EMA, STATE, Manifest, SlotSpec

SCHEMA = "pockui.checkpoint/1"
_HEADER = "pockui"


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: str = Field(alias="schema")
    task: str
    fingerprint: str
    step: int = Field(ge=0)
    seed: int = 0
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """State slots by name, the number of steps that led to them, and the seed of these steps."""

    state: dict[str, np.ndarray]
    step: int
    seed: int


def save_checkpoint(
    path: Path, manifest: Manifest, state: Mapping[str, np.ndarray], step: int, seed: int
) -> None:
    """Write a checkpoint; a killed write leaves the old file.

    Raises:
        ArtifactError: the file cannot be written.
    """
    header = _Header(
        schema=SCHEMA,
        task=manifest.task,
        fingerprint=manifest.fingerprint,
        step=step,
        seed=seed,
        sha256=_digest(state),
    )
    save_arrays(path, state, {_HEADER: header.model_dump_json(by_alias=True)})


def load_checkpoint(path: Path, manifest: Manifest) -> Checkpoint:
    """Read a checkpoint of this artefact, or of one with the same model, plan and frozen weights.

    Raises:
        ArtifactError: missing, cut short, changed, or made for something else.
    """
    header = _read_header(path)
    if header.fingerprint != manifest.fingerprint:
        raise ArtifactError(
            f"The checkpoint {path} (task {header.task!r}, step {header.step}) belongs to another artefact: "
            "its model, plan, optimizer or frozen weights are not those of this one "
            f"(task {manifest.task!r}). Load the artefact it was saved from, or train this one anew."
        )
    slots = {s.name: s for s in manifest.train.state}
    state = read_arrays(path, None)
    wrong = [f"{n} is missing" for n in slots if n not in state]
    wrong += [f"{n} is unexpected" for n in state if n not in slots]
    wrong += [
        f"{n} is {a.dtype} {list(a.shape)} instead of {slots[n].dtype} {list(slots[n].shape)}"
        for n, a in state.items()
        if n in slots and (a.shape != slots[n].shape or str(a.dtype) != slots[n].dtype)
    ]
    if wrong:
        raise ArtifactError(f"The checkpoint {path} does not hold this artefact's state: {listing(wrong)}.")
    if _digest(state) != header.sha256:
        raise ArtifactError(f"The checkpoint {path} was damaged: its values changed. Use another one.")
    return Checkpoint(state, header.step, header.seed)


def _read_header(path: Path) -> _Header:
    with _opened(path) as f:
        text = (f.metadata() or {}).get(_HEADER)
    if text is None:
        raise ArtifactError(
            f"{path} is no checkpoint: its header says nothing of one. Pass what save() wrote."
        )
    try:
        schema = json.loads(text).get("schema")
        if schema != SCHEMA:
            raise ArtifactError(f"{path} has schema {schema!r}; this version of pockgraph reads {SCHEMA!r}.")
        return _Header.model_validate_json(text)
    except (ValueError, AttributeError, ValidationError) as e:
        raise ArtifactError(f"{path} is no checkpoint: its header is not valid ({e}).") from None


def initial_state(folder: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """The state slots' values that the artefact was compiled with."""
    return read_arrays(folder / STATE, [s.name for s in manifest.train.state])


def base_tensors(folder: Path, fqns: Iterable[str]) -> dict[str, np.ndarray]:
    """FQN -> the whole tensor, frozen channels included, of partially trained tensors."""
    names = {f"param:{fqn}": fqn for fqn in fqns}
    return {names[n]: a for n, a in read_arrays(folder / STATE, list(names)).items()}


def whole_tensors(
    folder: Path, manifest: Manifest, state: Mapping[str, np.ndarray], averaged: bool = False
) -> dict[str, np.ndarray]:
    """FQN -> full-shape array of every trained tensor, and of the buffers that training changes.

    Trained channels are put into the whole tensor.

    Args:
        averaged: the tensors' averages over training; only where `manifest.averaged`.
    """
    bases = base_tensors(folder, manifest.partial)
    whole = {}
    for slot in manifest.train.state:
        if not (slot.trained or slot.changes):
            continue
        part = state[average_name(slot) if averaged and slot.trained else slot.name]
        if slot.indices is None:
            whole[slot.fqn] = part
        else:
            whole[slot.fqn] = bases[slot.fqn]
            whole[slot.fqn][channels(slot)] = part
    return whole


def average_name(slot: SlotSpec) -> str:
    """The state slot that holds the average of a trained tensor."""
    return slot.model_copy(update={"role": "opt_state", "key": EMA, "trained": False}).name


def channels(slot: SlotSpec) -> tuple[slice | np.ndarray, ...]:
    """The index that picks a partial slot's channels out of the whole tensor."""
    assert slot.dim is not None
    return (*[slice(None)] * slot.dim, np.asarray(slot.indices))


# ---------------------------------------------------------------- safetensors


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file beside `path`, then rename it.

    Raises:
        ArtifactError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            temporary.touch()
            mode = temporary.stat().st_mode  # what the user's umask gives; safetensors makes files private
            save_file(
                {k: np.array(a, order="C", copy=None) for k, a in arrays.items()}, temporary, dict(metadata)
            )
            temporary.chmod(mode)
            with temporary.open("rb") as f:
                os.fsync(f.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except (OSError, SafetensorError) as e:
        raise ArtifactError(f"Cannot write {path}: {e}. Choose another place, or make room there.") from None


def read_arrays(path: Path, names: Iterable[str] | None) -> dict[str, np.ndarray]:
    """Arrays of a safetensors file, all of them or those named.

    Raises:
        ArtifactError: no such file, not a safetensors file, cut short, or a name is missing.
    """
    with _opened(path) as f:
        known = set(f.keys())
        wanted = sorted(known) if names is None else list(names)
        missing = [n for n in wanted if n not in known]
        if missing:
            raise ArtifactError(f"{path} lacks {listing(missing)}. Compile the artefact again.")
        return {n: f.get_tensor(n) for n in wanted}


def _opened(path: Path) -> safe_open:
    if not path.is_file():
        raise ArtifactError(f"There is no file {path}.")
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as e:
        raise ArtifactError(
            f"{path} is damaged or no safetensors file ({e}). Use another copy or an older checkpoint."
        ) from None


def _digest(state: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {state[name].dtype} {state[name].shape};".encode())
        digest.update(np.array(state[name], order="C", copy=None).data)
    return digest.hexdigest()
