"""What plans' steps take on a target: a few are compiled and measured, from which models predict the others.

Each plan is measured in a process of its own by `pockgraph.measure`, which gives time and memory together.
The processes take turns and all live at once, so that a machine with other work slows all plans alike. A kit
(`device_kit`) is measured one process at a time, keeps what it has, and needs no torch: it is for devices.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from ..files import ScratchFolder
from ..machine import available_memory_bytes
from ..measure import MeasureError, StepFigures, artifact_command, batch_file, measure_interleaved
from ..profile import MeasuredPlan, Profile
from ..train_graph import TrainGraph

Choice = Mapping[str, float]
FITTED_PLANS = 12
_RATIOS = (1.0, 1.0, 0.5, 0.25, 0.125)
_PROCESS_BYTES = 200_000_000  # of libraries and of a small model, estimated high


def fitting_choices(profile: Profile, count: int = FITTED_PLANS) -> list[dict[str, float]]:
    """Plans that differ in every kind of cost: head, full, preset, ranges of layers, and random parts."""
    weights = [r for r in profile.tensors if r.kind == "weight" and r.fqn not in profile.head]
    head = dict.fromkeys(profile.head, 1.0)
    full = {r.fqn: 1.0 for r in profile.tensors}
    choices = [head, full, dict(profile.presets.get("preset", head))]
    cuts = [weights[len(weights) // 3].depth, weights[2 * len(weights) // 3].depth] if weights else []
    for cut in cuts:
        choices.append({r.fqn: 1.0 for r in profile.tensors if r.depth >= cut} | head)
        choices.append({r.fqn: 1.0 for r in profile.tensors if r.depth >= cut and r.kind != "weight"} | head)
    if weights:
        choices += random_choices(profile, count - len(choices), seed=0)
    return choices[:count]


def random_choices(profile: Profile, count: int, seed: int) -> list[dict[str, float]]:
    """Plans that train random parts of what lies after a random depth, few of it or nearly all."""
    rng = random.Random(seed)
    depths = sorted({t.depth for t in profile.tensors})
    choices: list[dict[str, float]] = []
    for _ in range(count):
        cut, often, biases = (
            rng.choice(depths),
            rng.choice((0.15, 0.3, 0.6, 0.9)),
            rng.choice((0.0, 0.5, 1.0)),
        )
        choice = dict.fromkeys(profile.head, 1.0)
        for t in profile.tensors:
            if t.depth < cut or t.fqn in choice:
                continue
            if rng.random() < (often if t.kind == "weight" else biases):
                choice[t.fqn] = rng.choice(_RATIOS) if t.kind == "weight" and t.channels else 1.0
        choices.append(choice)
    return choices


def measure_plans(
    graph: TrainGraph,
    profile: Profile,
    *,
    target: str = "openvino",
    choices: Sequence[Choice] | None = None,
    rounds: int = 5,
    steps: int = 3,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[MeasuredPlan]:
    """Time and memory of several plans' steps, measured in turn so that drift hits all alike.

    As many processes are alive at once as half of the free memory holds by a generous estimate.

    Args:
        choices: `fitting_choices`, if left out.
        rounds, steps: every round runs `steps` steps of each plan; the median over all is returned.

    Raises:
        MeasureError: an artefact cannot be loaded, or a step fails.
    """
    from ..artifact.compiler import compile as compile_plan

    chosen = [dict(c) for c in (fitting_choices(profile) if choices is None else choices)]
    found: list[MeasuredPlan] = []
    graph = graph.without_predictions()
    # A real batch: of zeros, a mean over the tokens that a mask counts is 0 / 0, and the step refuses that.
    with batch_file(graph.task.example) as batch:
        for group in _groups(profile, chosen):
            with ScratchFolder("measuring") as folder:
                commands = {}
                for i, choice in enumerate(group):
                    if progress:
                        progress(f"compiling plan {len(found) + i + 1} of {len(chosen)}")
                    out = folder / str(i)
                    compile_plan(graph, profile.plan(choice), target=target, out=out, parity=False)
                    commands[str(i)] = artifact_command(out, batch, threads)
                if progress:
                    progress(f"measuring plans {len(found) + 1} to {len(found) + len(group)}")
                figures = measure_interleaved(commands, blocks=rounds, steps=steps)
                found += [_measured(target, c, figures[str(i)]) for i, c in enumerate(group)]
    return found


def _measured(target: str, choice: Choice, figures: StepFigures | MeasureError) -> MeasuredPlan:
    if isinstance(figures, MeasureError):
        raise figures
    return MeasuredPlan(
        target=target, choice=dict(choice), step_ms=figures.undisturbed.median_ms, memory=figures.memory
    )


def _groups(profile: Profile, choices: Sequence[Choice]) -> Iterator[list[Choice]]:
    """Plans whose processes may be alive together; one by one where free memory is not known."""
    room, group, held = (available_memory_bytes() or 0) / 2, list[Choice](), 0.0
    for choice in choices:
        needed = _PROCESS_BYTES + 4 * profile.figures(choice).peak_bytes
        if group and held + needed > room:
            yield group
            group, held = [], 0.0
        group, held = [*group, choice], held + needed
    if group:
        yield group
