"""Whole tensors out of the parts of them that are trained, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ..errors import ArtifactError, listing, suggest
from ..ir.slot_names import EMA, Role
from ..plan import Plan
from .artifact_files import STATE, require_unchanged
from .checkpoint import read_arrays
from .graph_specs import SlotSpec
from .manifest import Manifest


def base_tensors(folder: Path, manifest: Manifest, fqns: Iterable[str]) -> dict[str, np.ndarray]:
    """FQN -> the whole tensor, frozen channels included, of partially trained tensors."""
    names = {f"param:{fqn}": fqn for fqn in fqns}
    if names:
        require_unchanged(folder, manifest, STATE)
    return {names[n]: a for n, a in read_arrays(folder / STATE, list(names)).items()}


def whole_tensors(
    folder: Path, manifest: Manifest, state: Mapping[str, np.ndarray], averaged: bool = False
) -> dict[str, np.ndarray]:
    """FQN -> full-shape array of every trained tensor, and of the buffers that training changes.

    Trained channels are put into the whole tensor.

    Args:
        averaged: the tensors' averages over training; only where `manifest.averaged`.
    """
    bases = base_tensors(folder, manifest, manifest.partial)
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


def given_state(
    folder: Path, manifest: Manifest, plan: Plan, tensors: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """State slot name -> the value that whole tensors, by FQN, give it; an average begins anew with them.

    Raises:
        ArtifactError: a name that is not trained (with suggestions), another shape, values that are not
            finite, or other values in the channels that the plan freezes.
    """
    slots = {s.fqn: s for s in manifest.train.state if s.trained or s.changes}
    bases = base_tensors(folder, manifest, [n for n in tensors if n in manifest.partial])
    values = {}
    for fqn, tensor in tensors.items():
        if fqn not in slots:
            frozen = fqn in plan.model
            what = "is frozen in this plan" if frozen else "is no tensor of this model"
            hint = "" if frozen else suggest(fqn, slots)
            raise ArtifactError(f"Cannot set {fqn!r}: it {what}.{hint} Trained are {listing(list(slots))}.")
        slot = slots[fqn]
        array = np.asarray(tensor, dtype=slot.dtype)
        shape = plan.model[fqn] if slot.trained else slot.shape
        if array.shape != shape:
            raise ArtifactError(f"Cannot set {fqn!r}: its shape is {list(shape)}, not {list(array.shape)}.")
        if not np.isfinite(array).all():
            raise ArtifactError(f"Cannot set {fqn!r}: it holds NaN or infinite values.")
        if slot.indices is not None:
            picked = channels(slot)
            merged = bases[fqn]
            merged[picked] = array[picked]
            if not np.array_equal(merged, array):
                raise ArtifactError(
                    f"Cannot set {fqn!r}: the plan trains {len(slot.indices)} of its channels, and the "
                    "values differ from the compiled ones in the others. Compile the task again with these "
                    "values."
                )
            array = array[picked]
        values[slot.name] = array
        if manifest.averaged:
            values[average_name(slot)] = array
    return values


def average_name(slot: SlotSpec) -> str:
    """The state slot that holds the average of a trained tensor."""
    return slot.model_copy(update={"role": Role.OPT_STATE.value, "key": EMA, "trained": False}).name


def channels(slot: SlotSpec) -> tuple[slice | np.ndarray, ...]:
    """The index that picks a partial slot's channels out of the whole tensor."""
    assert slot.dim is not None
    return (*[slice(None)] * slot.dim, np.asarray(slot.indices))
