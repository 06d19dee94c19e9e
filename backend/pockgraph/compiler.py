"""(TrainGraph, Plan) -> Artifact: prune, run the passes, lower for a target, write the folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .artifact import Artifact, write_artifact
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
        target: `"openvino"` (no torch on the device) or `"torch"`.
        out: the folder; an artefact that is there already is replaced in one step.
        options: the target's own, stored in the manifest.

    Raises:
        PlanError: the plan is another model's.
        UnsupportedOperators: listing every operator the target lacks, before anything is written.
        ArtifactError: `out` is a folder that holds something else.
    """
    lowering = get_target(target)
    small = graph.prune(plan) if plan is not None else graph
    train, evaluation = run(small), run(small.evaluation())
    lacking = {(u.op, u.layer): u for g in (train, evaluation) for u in lowering.unsupported(g)}
    if lacking:
        lines = "\n".join(
            f"  {u.op} in {u.layer or 'the loss'} ({u.source or 'no source'}): {u.reason}"
            for u in lacking.values()
        )
        raise UnsupportedOperators(
            f"Target {target!r} cannot run {len(lacking)} operators of task {graph.name!r}:\n{lines}\n"
            "Train fewer layers, use another target, or replace these layers."
        )
    return write_artifact(Path(out), lowering, train, evaluation, small, dict(options or {}))
