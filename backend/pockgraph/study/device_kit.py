"""Making a kit: the few plans that a device is asked to measure, compiled, and one batch of the task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..errors import reason
from ..files import ScratchFolder, replacing
from ..measure.device_profile import THIS_MACHINE, DeviceProfile, DeviceProfileError, TaskIdentity
from ..measure.kit import BATCH, KIT, Kit, KitPlan, Measuring, measure_kit
from ..profile import Profile
from ..profile.time_model import LEAST_TIMED_PLANS
from ..train_graph import TrainGraph
from .measured_plans import Choice, fitting_choices


def make_kit(
    graph: TrainGraph,
    profile: Profile,
    out: Path,
    *,
    target: str = "openvino",
    choices: Sequence[Choice] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Kit:
    """Compile plans that differ in every kind of work into a folder; one that is there is replaced.

    Args:
        choices: FQN -> ratio, one for each plan; `fitting_choices` unless given.

    Raises:
        DeviceProfileError: `out` holds something else, or cannot be written.
        UnsupportedOperators: the target lacks something that these plans need.
    """
    from ..artifact.compiler import compile as compile_plan

    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / KIT).is_file()):
        raise DeviceProfileError(f"{out} is there, and no kit. Choose another folder, or remove it.")
    chosen = [dict(c) for c in (fitting_choices(profile) if choices is None else choices)]
    if len(chosen) < LEAST_TIMED_PLANS:
        raise DeviceProfileError(
            f"A kit has at least {LEAST_TIMED_PLANS} plans, or nothing can be told from them."
        )
    plans = [KitPlan(choice=c, artifact=f"plan-{n:02}") for n, c in enumerate(chosen)]
    identity = TaskIdentity(
        name=graph.name, fingerprint=graph.fingerprint, optimizer=graph.optimizer.to_dict()
    )
    graph = graph.without_predictions()
    kit = Kit(task=identity, target=target, plans=tuple(plans))
    try:
        with replacing(out) as new:
            new.mkdir()
            for n, plan in enumerate(plans):
                if progress is not None:
                    progress(n, len(plans), f"compiling plan {n + 1}")
                compile_plan(
                    graph, profile.plan(plan.choice), target=target, out=new / plan.artifact, parity=False
                )
            batch = {name: value.numpy(force=True) for name, value in graph.task.example.items()}
            np.savez(new / BATCH, **batch)  # pyright: ignore[reportArgumentType]
            (new / KIT).write_text(kit.to_json(), encoding="utf-8")
    except OSError as e:
        raise DeviceProfileError(f"Cannot write the kit {out}: {reason(e)}. Choose another place.") from None
    if progress is not None:
        progress(len(plans), len(plans), "done")
    return kit


def measure_here(
    graph: TrainGraph,
    profile: Profile,
    *,
    target: str = "openvino",
    threads: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> DeviceProfile:
    """Measure a kit on this machine.

    Raises:
        DeviceProfileError: fewer plans could be measured than a model of a step's time needs.
    """
    with ScratchFolder("kit") as scratch:
        kit, out = scratch / "kit", scratch / "device.json"
        make_kit(graph, profile, kit, target=target, progress=progress)
        found = measure_kit(kit, out, Measuring(THIS_MACHINE, threads, rounds=1), progress)
    if len(found.plans()) < LEAST_TIMED_PLANS:
        raise DeviceProfileError(
            f"{len(found.failures)} of {len(found.choices)} plans could not be measured here, for example: "
            f"{next(iter(found.failures.values()))}"
        )
    return found
