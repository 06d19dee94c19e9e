"""Task -> TrainGraph: the whole training step, derived once, every parameter trainable."""

from __future__ import annotations

from dataclasses import replace

from ..capture import trace_loss, trace_metric
from ..errors import TaskError, require
from ..ir.graph import Graph, Role
from ..optimizer import SGD, Optimizer, check_groups
from ..passes import run
from ..passes.canonicalize import Canonicalize
from ..passes.dropout_masks import DropoutMasks, refuse_random
from ..passes.optimize.hoist_weight_gradients import HoistWeightGradients
from ..plan import BatchSpec, Plan, Trained
from ..task import Task
from .predictions import trace_predictions
from .prune import prune
from .train_graph import TrainGraph, no_parameters, tensor_infos


def build(task: Task, optimizer: Optimizer | None = None) -> TrainGraph:
    """The training graph of a task: forward, backward and update, every parameter trainable that
    has `requires_grad=True`; the others stay as they are.

    Args:
        task: model, loss, metric and data.
        optimizer: `SGD` (the default, lr 0.01), `Adam`, `AdamW`, `Lion` or `Adafactor`.

    Raises:
        TaskError: the loss is not a scalar, nothing can be trained, a group of the optimizer's matches
            no tensor, or the task's prediction is none.
        CaptureError: the model has no static graph (data-dependent control flow, …).
    """
    optimizer = SGD() if optimizer is None else optimizer
    require(TaskError, "task", task, Task, "Pass a pockgraph.Task: the model with its loss, metric and data.")
    require(
        TaskError,
        "optimizer",
        optimizer,
        Optimizer,
        "Pass one of pockgraph's, such as pockgraph.SGD(lr=0.1).",
    )
    trace = trace_loss(task)
    masks = (DropoutMasks(),) if task.dropout else ()
    gradients = run(trace.graph, (Canonicalize(), *masks, HoistWeightGradients()), "gradients")
    refuse_random(gradients, task.name, "loss")
    tensors = tensor_infos(gradients)
    if not tensors:
        raise no_parameters(task.name)
    check_groups(optimizer, [r.fqn for r in tensors])
    metric = run(trace_metric(task).graph, (Canonicalize(),), "metric")
    refuse_random(metric, task.name, "metric")
    metric = _sharing_buffers(metric, gradients)
    predictions = tuple(
        replace(p, graph=_sharing_buffers(p.graph, gradients)) for p in trace_predictions(task)
    )
    batch = {s.fqn: BatchSpec(shape=s.shape, dtype=s.dtype) for s in gradients.inputs if s.role is Role.BATCH}
    plan = Plan(
        task=task.name, model={r.fqn: r.shape for r in tensors}, batch=batch, optimizer=optimizer.to_dict(),
        batch_norm=task.batch_norm, dropout=task.dropout,
        tensors={r.fqn: Trained() for r in tensors}, provenance={"made_by": "full"},
    )  # fmt: skip
    whole = prune(gradients, optimizer, plan)
    graph = TrainGraph(
        fx=whole.fx, inputs=whole.inputs, outputs=whole.outputs, values=whole.values, name=task.name,
        task=task, gradients=gradients, metric=metric, optimizer=optimizer, plan=plan, tensors=tensors,
        unused=trace.unused, aliases=trace.aliases, frozen=trace.frozen, reference=task.reference,
        predictions=predictions,
    )  # fmt: skip
    return graph


def _sharing_buffers(forward: Graph, gradients: Graph) -> Graph:
    """A forward graph, reading the buffers that a training step changes as state."""
    changed = {s.fqn for s in gradients.outputs if s.role is Role.NEW_BUFFER}
    changes = lambda s: s.role is Role.BUFFER and s.fqn in changed  # noqa: E731
    return replace(forward, inputs=tuple(replace(s, changes=changes(s)) for s in forward.inputs))
