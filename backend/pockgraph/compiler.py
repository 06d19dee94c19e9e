"""(TrainGraph, Plan) -> Artifact: prune, run the passes, lower for a target, write the folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .artifact import Artifact, write_artifact
from .check import check_lowered
from .errors import UnsupportedOperators
from .passes import run
from .plan import Plan
from .targets import get_target
from .train_graph import TrainGraph


def compile(
    graph: TrainGraph,
    plan: Plan | None = None,
    *,
    target: str = "openvino",
    out: str | os.PathLike[str] = "out",
    options: Mapping[str, Any] | None = None,
) -> Artifact:
    """Compile the training step of a plan into a folder that a device runs.

    Args:
        graph: from `build`.
        plan: what is trained; by default the graph's own plan.
        target: `"openvino"` or `"onnx"` (no torch on the device), or `"torch"`.
        out: the folder; an artefact that is there already is replaced in one step.
        options: the target's own, stored in the manifest.

    Raises:
        PlanError: the plan is another model's.
        UnsupportedOperators: listing every operator the target lacks and the nearest plan that compiles,
            before anything is written.
        ArtifactError: `out` is a folder that holds something else.
    """
    lowering = get_target(target)
    small = graph.prune(plan) if plan is not None else graph
    train, evaluation = run(small), run(small.evaluation())
    found = check_lowered(small, lowering, train, evaluation)
    if not found.ok:
        raise UnsupportedOperators(str(found))
    return write_artifact(Path(out), lowering, train, evaluation, small, dict(options or {}))
