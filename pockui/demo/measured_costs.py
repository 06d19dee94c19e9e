"""What the demo measured of its plans: steps, as a device of the study, and what the processes held."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping

from pockgraph import TrainGraph
from pockgraph.machine import machine
from pockgraph.measure import StepFigures
from pockgraph.measure.device_profile import THIS_MACHINE, Block, DeviceProfile, TaskIdentity
from pockgraph.profile import MeasuredPlan, Profile
from pockgraph.profile.model_fits import LEAST_MEMORY_PLANS, fit_memory

from ..versions import versions
from .results import ProcessPeak

DEVICE = f"{THIS_MACHINE} (demo)"


def device_of(
    graph: TrainGraph,
    target: str,
    choices: Mapping[str, Mapping[str, float]],
    figures: Mapping[str, StepFigures],
    threads: int,
) -> DeviceProfile:
    """Steps that were measured in turn, as a device that plans can be made for.

    Args:
        choices: key -> FQN -> trained ratio, in the order of the device's plans. figures: of the same keys.
    """
    identity = TaskIdentity(
        name=graph.name, fingerprint=graph.fingerprint, optimizer=graph.optimizer.to_dict()
    )
    listed = [dict(choice) for choice in choices.values()]
    now = time.time()
    return DeviceProfile(
        name=DEVICE, target=target, task=identity,
        kit=hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16],
        machine=machine(), versions=versions(), threads=threads, started=now, changed=now, rounds=1,
        choices=tuple(listed), blocks=tuple(Block.of(n, figures[key]) for n, key in enumerate(choices)),
    )  # fmt: skip


def process_peaks(profile: Profile, measured: Mapping[str, MeasuredPlan]) -> dict[str, ProcessPeak]:
    """The account of each plan's process, predicted from all others' alone, beside its measured peak.

    Empty where too few were measured, or the system does not say.

    Args:
        measured: by the key of its method.
    """
    found = {}
    for key, plan in measured.items():
        others = [other for k, other in measured.items() if k != key]
        if plan.memory is None or len(others) < LEAST_MEMORY_PLANS:
            continue
        memory = profile.with_memory(fit_memory(profile, others)).process_memory(plan.choice)
        if memory is not None:
            parts = {f"{part}_bytes": nbytes for part, nbytes in memory.parts().items()}
            found[key] = ProcessPeak(**parts, measured_bytes=plan.memory.peak_bytes)
    return found
