"""Profiles of devices whose steps take what a given model says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pockgraph.machine import machine
from pockgraph.measure import StepFigures, StepTime
from pockgraph.measure.device_profile import Block, DeviceProfile, TaskIdentity
from pockgraph.measure.reference import Reference, Timing
from pockgraph.profile import Profile
from pockgraph.runtime.process_memory import Memory
from pockgraph.study import Study
from pockgraph.study.measured_plans import fitting_choices

REFERENCE = Reference(
    matmul=Timing(median_ms=1.0, q1_ms=0.9, q3_ms=1.1), stream=Timing(median_ms=2.0, q1_ms=1.9, q3_ms=2.1),
    samples=6,
)  # fmt: skip
MEMORY = Memory(50_000_000, 80_000_000, 90_000_000, 95_000_000)


def step_ms(profile: Profile, choice: Any, slowness: float) -> float:
    """A device on which a unit of any work takes the same time."""
    return slowness * (1 + 1e-6 * sum(profile.work(choice)[1:]))


def device_of(
    study: Study,
    name: str = "board",
    *,
    slowness: float = 1.0,
    target: str = "onnx",
    measured: Sequence[int] | None = None,
) -> DeviceProfile:
    """
    Args:
        slowness: of its steps. measured: positions of the plans that were; all unless given.
    """
    profile = study.profile_on(None)
    choices = fitting_choices(profile)
    blocks = []
    for n in range(len(choices)) if measured is None else measured:
        time = StepTime.of([step_ms(profile, choices[n], slowness)])
        blocks.append(Block.of(n, StepFigures(time, MEMORY, 5.0, 6.0, time, REFERENCE)))
    identity = TaskIdentity(
        name=study.name, fingerprint=study.fingerprint, optimizer=study.facts["optimizer"]
    )
    return DeviceProfile(
        name=name, target=target, task=identity, kit="kit", machine=machine(), versions={}, started=1.0,
        changed=2.0, rounds=1, choices=tuple(choices), blocks=tuple(blocks),
    )  # fmt: skip
