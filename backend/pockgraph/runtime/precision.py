"""In which precision an artefact computes, and whether a device keeps the weights in float32.

The `precision` option of a target lowers activations and gradients. Trained weights, optimizer state
and their update are float32 at any precision: a step moves a weight by less than bfloat16 or float16
can say. A device may hold state in fewer bits all the same, and still call it float32. Writing it and
reading it back does not tell (OpenVINO's float16 mode on ARM gives back what was written), so the check
takes a step at a learning rate of zero: every weight must come back as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import ArtifactError, listing
from ..plan import BatchSpec
from .manifest import Manifest
from .runner import Runner

PRECISIONS = ("f32", "bf16", "f16")
# A weight that went through float16 is off by up to 2**-11 of itself, through bfloat16 by 2**-8.
_KEPT_RATIO = 2.0**-16


def requested_precision(manifest: Manifest) -> str:
    """The `precision` option that an artefact was compiled with.

    Raises:
        ArtifactError: a precision that this version does not know.
    """
    precision = manifest.options.get("precision", PRECISIONS[0])
    if precision not in PRECISIONS:
        raise ArtifactError(
            f"The artefact asks for precision {precision!r}; this version knows {', '.join(PRECISIONS)}. "
            "Compile it again with this version."
        )
    return precision


def require_exact_state(
    runner: Runner, manifest: Manifest, initial: Mapping[str, np.ndarray], where: str
) -> None:
    """Take a step at a learning rate of zero and refuse a device that changes a weight by it.

    The runner's state is not what it was afterwards.

    Args:
        initial: slot name -> the artefact's initial state.
        where: what to call the device in messages.

    Raises:
        ArtifactError: weights lost precision (named, by how much), or the step says nothing about them.
    """
    written = probe_state(initial)
    runner.write_state(written)
    lost = _lost(written, runner.read_state())
    if not lost:
        runner.step(probe_batch(manifest.batch), 0.0)
        trained = {s.name for s in manifest.train.state if s.trained}
        after = {n: a for n, a in runner.read_state().items() if n in trained}
        if not any(np.isfinite(a).all() for a in after.values()):
            raise ArtifactError(
                f"Whether {where} keeps trained weights in float32 cannot be told: a step on made-up data "
                "gives no finite weights. Train on the device 'CPU' with precision f32."
            )
        lost = _lost(written, after)
    if lost:
        worst = max(lost.values())
        raise ArtifactError(
            f"{where} holds state in less than float32: {listing(sorted(lost))} came back off by up to "
            f"{worst:.1e} of the value, and small updates would be lost. Compile the artefact again with "
            "precision f32; where it has that already, train on another device."
        )


def probe_state(initial: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The initial state moved by up to a thousandth, so that every value needs all bits of a float32.

    Zeros become small and positive: a second moment must not be negative.
    """
    rng = np.random.default_rng(0)
    probe = {}
    for name, value in initial.items():
        if value.dtype.kind == "f":
            noise = rng.uniform(2e-4, 1e-3, value.shape)
            value = np.where(value == 0, noise, value * (1 + noise)).astype(value.dtype)
        probe[name] = value
    return probe


def probe_batch(specs: Mapping[str, BatchSpec]) -> dict[str, np.ndarray]:
    """Any batch: floats in [0, 1), and ones, which are valid ids, classes and masks alike."""
    rng = np.random.default_rng(0)
    batch: dict[str, np.ndarray] = {}
    for name, spec in specs.items():
        dtype: Any = np.dtype(spec.dtype)
        batch[name] = (
            rng.random(spec.shape).astype(dtype) if dtype.kind == "f" else np.ones(spec.shape, dtype)
        )
    return batch


def _lost(written: Mapping[str, np.ndarray], read: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Slot name -> by how much of its value it is off, for those that are off at all; finite ones only."""
    lost = {}
    for name, after in read.items():
        before = written[name]
        if before.dtype.kind != "f" or not after.size:
            continue
        finite = np.isfinite(after)
        error = np.abs(np.where(finite, after, before) - before) / np.maximum(np.abs(before), 1e-30)
        if error.max() > _KEPT_RATIO:
            lost[name] = float(error.max())
    return lost
