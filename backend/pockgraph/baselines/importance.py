"""How much a step's update of each tensor is expected to take off the loss: one probe of the whole graph.

As ElasticTrainer defines it: gradient and update are of the same batch. The `update` scores of a contribution
analysis (`contribution/scores.py`) take them from different batches, so that noise does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..artifact.compiler import compile
from ..contribution.data import fresh_values
from ..errors import PlanError, require
from ..files import ScratchFolder
from ..ir.graph import Role
from ..ir.interpreter import interpret
from ..optimizer import optimizer_from_dict
from ..plan import Plan
from ..task.batch import check_batch
from ..train_graph import TrainGraph
from ..train_graph.prune import prune

PROBE_STEPS = 50


def trained_head(
    graph: TrainGraph, steps: int = PROBE_STEPS, lr: float | None = None, seed: int = 0
) -> dict[str, torch.Tensor]:
    """The head's values after a short training of it alone, for `importance`; empty where none is fresh.

    Args:
        lr: the optimizer's own unless given.
        seed: draws the fresh tensors and the order of the batches.
    """
    task = graph.task
    if not task.fresh:
        return {}
    with ScratchFolder("head") as folder:
        artifact = compile(
            graph.without_predictions(), Plan.head(graph), target="torch", out=folder, parity=False
        )
        trainer = artifact.trainer()
        trainer.reset({fqn: value.numpy() for fqn, value in fresh_values(task, seed).items()})
        for _, batch in zip(range(steps), task.forever(seed)):
            trainer.step(batch, graph.optimizer.lr if lr is None else lr)
        return {fqn: torch.from_numpy(np.array(value)) for fqn, value in trainer.state().items()}


def importance(
    graph: TrainGraph,
    batches: Iterable[Any],
    lr: float | None = None,
    *,
    values: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, float]:
    """FQN -> -sum(g * dw): the first-order change of the loss by one update, its sign turned.

    g is a batch's gradient and dw the update that the graph's optimizer makes of it in its first step, both
    from the same weights for every batch; the products are added up (ElasticTrainer, MobiSys 2023). Nothing
    is changed.

    Args:
        graph: a task's training graph.
        batches: in the task's form (`task.train`, or some of it).
        lr: of the step; the optimizer's own unless given.
        values: FQN -> what a tensor is taken to be instead of its initial value, such as a head that has been
            trained: gradients that pass through one just drawn say little.

    Raises:
        PlanError: no batches, or a value for a tensor that there is none of.
        TaskError: a batch whose names, shapes or dtypes are not the task's.
    """
    require(PlanError, "graph", graph, TrainGraph, "Pass what pockgraph.build(task) returns.")
    require(PlanError, "batches", batches, Iterable, "Pass batches in the task's form, such as task.train.")
    given = {}
    for fqn, value in (values or {}).items():
        initial = graph.initial(fqn)
        given[f"param:{fqn}"] = torch.as_tensor(value, dtype=initial.dtype).reshape(initial.shape)
    gradients = replace(graph.gradients, values={**graph.gradients.values, **given})
    # The first of several micro-batches would update nothing.
    every_step = optimizer_from_dict({**graph.optimizer.to_dict(), "accumulate": 1})
    step = prune(gradients, every_step, Plan.full(graph))
    rate = graph.optimizer.lr if lr is None else lr
    example = {
        s.fqn: torch.empty(s.shape, dtype=getattr(torch, s.dtype), device="meta") for s in graph.batch_slots
    }
    found = {tensor.fqn: 0.0 for tensor in graph.tensors}
    count = 0
    for count, raw in enumerate(batches, start=1):
        batch = graph.task.named(raw)
        check_batch(batch, example)
        grads = interpret(gradients, batch, step=count - 1)
        after = interpret(step, batch, rate, step=count - 1)
        for slot in gradients.outputs:
            if slot.role is Role.GRAD:
                before = gradients.values[f"param:{slot.fqn}"].double()
                change = after[f"new_param:{slot.fqn}"].double() - before
                found[slot.fqn] -= float((grads[slot.name].double() * change).sum())
    if not count:
        raise PlanError("A probe needs batches, but there are none. Pass at least one.")
    return found
