"""How long a plan's step takes on a target: a few plans are timed, the others predicted.

A step's time is modelled as linear in its work (`Profile.work`): matrix products and depthwise
convolutions of dX and dW, and bytes moved by everything else. The forward pass is the same for every
plan and is part of the constant. Coefficients are fitted with non-negative least squares on relative
residuals, so that a short step counts as much as a long one.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from ..profile import Profile, TimeModel
from ..profile.profile import WORK_KINDS
from ..train_graph import TrainGraph

Choice = Mapping[str, float]
# Pulls coefficients that the timed plans say nothing about to zero, and moves the others by under 1 %.
RIDGE = 1e-3


def fit(profile: Profile, target: str, timed: Sequence[tuple[Choice, float]]) -> TimeModel:
    """A time model from (choice, measured ms) pairs.

    Args:
        profile: whose work the plans are described by.
        timed: at least two different plans; one per kind of work is better.
    """
    work = np.array([profile.work(choice) for choice, _ in timed], dtype=float)
    measured_ms = np.array([ms for _, ms in timed])
    scale = np.maximum(work.max(axis=0), 1.0)
    features = np.column_stack([np.ones(len(timed)), work / scale])
    # The forward pass does not tell plans apart: its column would compete with the constant.
    features[:, 1 + WORK_KINDS.index("forward")] = 0.0
    weighted = features / measured_ms[:, None]
    ridge = RIDGE * np.eye(features.shape[1]) / measured_ms.mean()
    ridge[0, 0] = 0.0
    equations = np.vstack([weighted, ridge])
    solution, _ = nnls(equations, np.concatenate([np.ones(len(timed)), np.zeros(len(ridge))]))
    predicted = features @ solution
    error = float(np.median(np.abs(predicted - measured_ms) / measured_ms))
    per_unit = tuple(float(c) for c in solution[1:] / scale)
    return TimeModel(target, float(solution[0]), per_unit, error, len(timed))


def probe_choices(profile: Profile, count: int = 7) -> list[dict[str, float]]:
    """Plans that differ in every kind of work: head, preset, full, and ranges of layers in between."""
    weights = [r for r in profile.tensors if r.kind == "weight" and r.fqn not in profile.head]
    head = dict.fromkeys(profile.head, 1.0)
    full = {r.fqn: 1.0 for r in profile.tensors}
    choices = [head, full, dict(profile.presets.get("preset", head))]
    cuts = [weights[len(weights) // 3].depth, weights[2 * len(weights) // 3].depth] if weights else []
    for cut in cuts:
        choices.append({r.fqn: 1.0 for r in profile.tensors if r.depth >= cut} | head)
        choices.append({r.fqn: 1.0 for r in profile.tensors if r.depth >= cut and r.kind != "weight"} | head)
    return choices[:count]


def time_plans(
    graph: TrainGraph,
    profile: Profile,
    *,
    target: str = "openvino",
    choices: Sequence[Choice] | None = None,
    rounds: int = 5,
    steps: int = 3,
    progress: Callable[[str], None] | None = None,
) -> list[tuple[Choice, float]]:
    """Median ms a step of several plans, measured in turn so that drift hits all alike.

    Args:
        rounds, steps: every round runs `steps` steps of each plan; the median over all is returned.
    """
    from ..artifact.compiler import compile as compile_plan
    from ..runtime import Trainer

    chosen = [dict(c) for c in (choices or probe_choices(profile))]
    # A real batch: of zeros, a mean over the tokens that a mask counts is 0 / 0, and the step refuses that.
    example = graph.task.example
    with tempfile.TemporaryDirectory(prefix="pockgraph-timing-") as folder:
        trainers = []
        for i, choice in enumerate(chosen):
            if progress:
                progress(f"compiling timing plan {i + 1} of {len(chosen)}")
            compile_plan(graph, profile.plan(choice), target=target, out=Path(folder) / str(i))
            trainers.append(Trainer.load(Path(folder) / str(i)))
        times_ms: list[list[float]] = [[] for _ in trainers]
        for trainer in trainers:
            trainer.step(example, lr=0.0)
        for _ in range(rounds):
            for trainer, taken in zip(trainers, times_ms):
                for _ in range(steps):
                    start = time.perf_counter()
                    trainer.step(example, lr=0.0)
                    taken.append((time.perf_counter() - start) * 1e3)
    return [(c, statistics.median(t)) for c, t in zip(chosen, times_ms)]
