"""Checkpoints and initial values: safetensors in, numpy out.

A checkpoint is one safetensors file: every state slot by name, and in the header who it belongs to,
the step, and a digest of the values. It carries no graph and no frozen weight.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..errors import ArtifactError, listing, reason
from ..files import open_regular, parse_json, replacing, require_kind
from ..plan import Plan
from .artifact_files import STATE, require_unchanged
from .manifest import Manifest

SCHEMA = "pockui.checkpoint/2"
# In the first version the digest covers the values alone, and the computation is not said.
_SCHEMAS = ("pockui.checkpoint/1", SCHEMA)
_HEADER = "pockui"
READ_BYTES = 1 << 22  # of initial values, read at once
DTYPES = {
    "BOOL": "bool", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "I8": "int8",
    "I16": "int16", "I32": "int32", "I64": "int64", "F16": "float16", "F32": "float32", "F64": "float64",
    "BF16": "bfloat16",
}  # fmt: skip


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: str = Field(alias="schema")
    task: str
    fingerprint: str
    computation: str = ""
    step: int = Field(ge=0, lt=1 << 63)
    seed: int = 0
    sha256: str

    def digest(self, state: Mapping[str, np.ndarray]) -> str:
        """What `sha256` must be: of the values, and from the second version on of the fields above, too."""
        digest = hashlib.sha256()
        if self.schema_ != _SCHEMAS[0]:
            said = [self.schema_, self.task, self.fingerprint, self.computation, self.step, self.seed]
            digest.update(json.dumps(said).encode())
        for name in sorted(state):
            digest.update(f"{name} {state[name].dtype} {state[name].shape};".encode())
            digest.update(np.array(state[name], order="C", copy=None).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """State slots by name, the number of steps that led to them, and the seed of these steps."""

    state: dict[str, np.ndarray]
    step: int
    seed: int


def require_replaceable(path: Path) -> None:
    """Refuse to write a checkpoint over what is none: a plan, a study, an artefact's state, other weights.

    Raises:
        ArtifactError: naming what lies there.
    """
    require_kind(path, "checkpoint", _is_checkpoint, ArtifactError)


def _is_checkpoint(path: Path) -> bool:
    try:
        _read_header(path)
    except ArtifactError:
        return False
    return True


def save_checkpoint(
    path: Path, manifest: Manifest, state: Mapping[str, np.ndarray], step: int, seed: int
) -> None:
    """Write a checkpoint; a killed write leaves the old file.

    Raises:
        ArtifactError: the file cannot be written, or is there and no checkpoint.
    """
    require_replaceable(path)
    header = _Header(
        schema=SCHEMA,
        task=manifest.task,
        fingerprint=manifest.fingerprint,
        computation=manifest.computation,
        step=step,
        seed=seed,
        sha256="",
    )
    header = header.model_copy(update={"sha256": header.digest(state)})
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
    if header.computation and manifest.computation and header.computation != manifest.computation:
        raise ArtifactError(
            f"The checkpoint {path} (task {header.task!r}, step {header.step}) was trained by another "
            f"computation than that of task {manifest.task!r}: tensors and optimizer are the same, but the "
            "operators of the forward pass or the loss differ (another activation, another loss). Load the "
            "artefact it was saved from, or train this one anew."
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
    if header.digest(state) != header.sha256:
        raise ArtifactError(
            f"The checkpoint {path} was damaged: its values or its header changed. Use another one."
        )
    bad = [n for n, a in state.items() if not np.isfinite(a).all()]
    if bad:
        raise ArtifactError(
            f"The checkpoint {path} cannot be continued: {listing(bad)} hold NaN or infinite values. Use "
            "an older one."
        )
    return Checkpoint(state, header.step, header.seed)


def _read_header(path: Path) -> _Header:
    with _opened(path) as f:
        text = (f.metadata() or {}).get(_HEADER)
    if text is None:
        raise ArtifactError(
            f"{path} is no checkpoint: its header says nothing of one. Pass what save() wrote."
        )
    try:
        data = parse_json(text)
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema not in _SCHEMAS:
            raise ArtifactError(
                f"{path} has schema {schema!r}; this version of pockgraph reads {SCHEMA!r} and older ones."
            )
        return _Header.model_validate_json(text, strict=True)
    except ValueError as e:
        raise ArtifactError(f"{path} is no checkpoint: its header is not valid ({reason(e)}).") from None


def initial_state(folder: Path, manifest: Manifest) -> Mapping[str, np.ndarray]:
    """The state slots' values that the artefact was compiled with, read when they are asked for.

    Reading raises `ArtifactError`: the file changed since it was checked, or is damaged.
    """
    return _InitialState(folder, manifest)


class _InitialState(Mapping[str, np.ndarray]):
    """Arrays read a few at a time, in their order.

    All together, in the file's memory map and beside it, can be the most that a process needs; and one at a
    time, the file is opened and its header read for each.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest
        self._sizes = {s.name: math.prod(s.shape) * np.dtype(s.dtype).itemsize for s in manifest.train.state}
        self._at_hand: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._sizes:
            raise KeyError(name)
        if name not in self._at_hand:
            self._at_hand = {}
            require_unchanged(self._folder, self._manifest, STATE)
            self._at_hand = read_arrays(self._folder / STATE, self._from(name))
        return self._at_hand.pop(name)

    def _from(self, name: str) -> list[str]:
        """`name` and the names after it, of `READ_BYTES` together."""
        order = list(self._sizes)
        onward = order[order.index(name) :]
        ends = itertools.accumulate(self._sizes[n] for n in onward)
        return [n for n, end in zip(onward, ends) if n == name or end <= READ_BYTES]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)


def check_state(folder: Path, manifest: Manifest, plan: Plan) -> None:
    """Compare the shapes and dtypes in the artefact's state file with the manifest's and the plan's.

    Raises:
        ArtifactError: naming what differs.
    """
    path = folder / STATE
    with _opened(path) as f:
        slices = {n: f.get_slice(n) for n in list(f.keys())}
        held = {n: (tuple(s.get_shape()), DTYPES.get(s.get_dtype(), "?")) for n, s in slices.items()}
    wrong = []
    for slot in manifest.train.state:
        if held.get(slot.name) != (slot.shape, slot.dtype):
            wrong.append(f"{slot.name} in {STATE}")
        if not slot.trained:
            continue
        whole = plan.model.get(slot.fqn)
        part = list(whole or ())
        if slot.indices is not None:
            dim = len(part) if slot.dim is None else slot.dim
            if 0 <= dim < len(part) and all(0 <= i < part[dim] for i in slot.indices):
                part[dim] = len(slot.indices)
            else:
                wrong.append(f"the channels of {slot.name}")
            if held.get(f"param:{slot.fqn}") != (whole, slot.dtype):
                wrong.append(f"param:{slot.fqn} in {STATE}")
        if whole is None or tuple(part) != slot.shape:
            wrong.append(f"the shape of {slot.name}")
    if wrong:
        raise ArtifactError(
            f"The artefact {folder} is damaged: manifest, plan and state disagree on {listing(wrong)}. "
            "Copy the folder again, or compile it again."
        )


# ---------------------------------------------------------------- safetensors


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        ArtifactError: the file cannot be written.
    """
    held = {k: np.array(a, order="C", copy=None) for k, a in arrays.items()}
    try:
        with replacing(path) as new:
            save_file(held, new, dict(metadata))
    except (OSError, SafetensorError) as e:
        raise ArtifactError(
            f"Cannot write {path}: {reason(e)}. Choose another place, or make room there."
        ) from None


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
        try:
            return {n: f.get_tensor(n) for n in wanted}
        except (SafetensorError, AttributeError, KeyError, TypeError, ValueError, MemoryError) as e:
            raise ArtifactError(f"{path} holds what numpy cannot ({reason(e)}). Use another copy.") from None


def _opened(path: Path) -> safe_open:
    try:
        open_regular(path).close()
        return safe_open(path, framework="numpy")
    except FileNotFoundError:
        raise ArtifactError(f"There is no file {path}.") from None
    except (SafetensorError, OSError, ValueError, MemoryError) as e:
        raise ArtifactError(
            f"{path} is damaged or no safetensors file ({reason(e)}). Use another copy or an older "
            "checkpoint."
        ) from None
