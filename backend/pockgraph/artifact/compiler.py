"""(TrainGraph, Plan) -> Artifact: prune, run the passes, lower for a target, write the folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from ..errors import PockError, TaskError, UnsupportedOperators, reason, require
from ..parity.compiled_step import check_parity
from ..parity.rounded_weights import check_rounded_parity
from ..passes import PassCount
from ..passes.batch_limits import limits_of
from ..plan import Plan
from ..runtime.batch_limits import check_limits
from ..runtime.frozen_weights import OPTION
from ..targets import get_target
from ..train_graph import TrainGraph
from ..train_graph.frozen_weights import with_int8_weights
from ..train_graph.target_check import check_lowered
from .artifact import Artifact, require_replaceable, write_artifact


def compile(
    graph: TrainGraph,
    plan: Plan | None = None,
    *,
    target: str = "openvino",
    out: str | os.PathLike[str] = "out",
    options: Mapping[str, Any] | None = None,
    parity: bool = True,
    force: bool = False,
    replace: bool = True,
) -> Artifact:
    """Compile the training step of a plan into a folder that a device runs.

    Args:
        graph: from `build`.
        plan: what is trained; by default the graph's own plan.
        target: `"openvino"` or `"onnx"` (no torch on the device), `"torch"`, or the experimental
            `"executorch"`.
        out: the folder; an artefact that is there already is replaced in one step, anything else never.
        options: the target's own, stored in the manifest. What rounds frozen weights (`frozen_weights` of
            `"openvino"`) says its cost in `manifest.parity.frozen_weights`.
        parity: take steps with what was compiled, compute the metric and predictions, and compare them with
            eager PyTorch, on the first batch of the task; `manifest.parity` is the record. False skips
            that, and the manifest says so.
        force: write an artefact that deviates; the record says so.
        replace: False replaces an artefact only by one of the same task, plan, optimizer and target, and
            refuses to replace another.

    Raises:
        TaskError: a matrix of the first batch has no decomposition.
        PlanError: the plan is another model's.
        BatchError: the task's first batch holds an index (a label, a token id) that the model has no row for,
            or an integer that the target cannot compute with, or one is made of it.
        UnsupportedOperators: listing every operator the target lacks and the nearest plan that compiles,
            before anything is written.
        ParityError: the compiled step, metric or prediction does not compute what PyTorch does; nothing is
            left on disk.
        ArtifactError: `out` holds something else, or with `replace=False` another artefact.
    """
    require(TaskError, "graph", graph, TrainGraph, "Pass what pockgraph.build(task) returns.")
    require(PockError, "options", options or {}, Mapping, "Pass options by name, as in {'precision': 'f32'}.")
    lowering = get_target(target)
    small = graph.prune(plan) if plan is not None else graph
    require_replaceable(out, small.plan, lowering.name, replace)
    chosen = dict(options or {})
    pipeline = lowering.pipeline(chosen)
    check = check_parity
    if chosen.get(OPTION) == "int8":
        small, rounded = with_int8_weights(small)
        check = partial(check_rounded_parity, rounded=rounded)
    counts: list[PassCount] = []
    train = pipeline.start(small, "train", counts)
    evaluation = pipeline.start(small.evaluation(), "eval")
    predictions = [
        dataclasses.replace(p, graph=pipeline.start(p.graph, p.stem)) for p in small.prediction_graphs()
    ]
    found = check_lowered(small, lowering, train, evaluation, [p.graph for p in predictions])
    if not found.ok:
        raise UnsupportedOperators(str(found))
    example = small.task.example
    for step, batch in ((train, example), (evaluation, example), *((p.graph, p.batch) for p in predictions)):
        arrays = {name: value.numpy(force=True) for name, value in batch.items()}
        check_limits(arrays, limits_of(step, lowering.integers_below), small.plan.task)
    parity_check = (lambda folder, manifest: check(folder, manifest, small, force)) if parity else None
    try:
        return write_artifact(
            out, lowering, train, evaluation, predictions, small, chosen, parity_check, replace,
            counts,
        )  # fmt: skip
    except torch.linalg.LinAlgError as e:  # pyright: ignore[reportPrivateImportUsage]
        said = f"its first batch cannot be trained on, as in eager PyTorch: {reason(e)}"
        raise TaskError(f"Task {small.plan.task!r}: {said}.") from e
