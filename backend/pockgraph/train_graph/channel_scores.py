"""Scores of channels by Fisher information: how much the loss of a few batches depends on each.

The score of a channel is the sum of its weights' squared gradients, added up over the batches: the
diagonal of the empirical Fisher information. TinyTrain (arXiv 2307.09988) chooses what to train on a
device by Fisher information, there that of activations; a weight's channel is what a plan here trains.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import fx

from ..errors import PlanError, require, suggest
from ..ir.graph import Graph, Role, output_args
from ..ir.interpreter import interpret
from ..task.batch import check_batch
from .train_graph import TrainGraph


def fisher_scores(
    graph: TrainGraph, batches: Iterable[Any], tensors: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """FQN -> a score of each channel, for `Plan.of(graph, choice, channels=fisher_scores(...))`.

    Takes a backward pass per batch, with the weights the graph was built with: a few batches are enough
    to rank channels. Nothing is changed.

    Args:
        graph: a task's training graph.
        batches: in the task's form (`task.train`, or some of it).
        tensors: FQNs to score; all that have channels unless given.

    Returns:
        Arrays `[channels]`, float64, at least 0.

    Raises:
        PlanError: no batches, or a tensor that is unknown or has no channels.
        TaskError: a batch whose names, shapes or dtypes are not the task's.
    """
    require(PlanError, "graph", graph, TrainGraph, "Pass what pockgraph.build(task) returns.")
    require(PlanError, "batches", batches, Iterable, "Pass batches in the task's form, such as task.train.")
    require(PlanError, "tensors", tensors or (), Iterable, "Pass a list of names, or leave it out.")
    sliceable = {tensor.fqn: tensor for tensor in graph.tensors if tensor.channel_dim is not None}
    wanted = list(sliceable) if tensors is None else list(tensors)
    for fqn in wanted:
        if fqn not in sliceable:
            raise PlanError(f"There are no channels to score in {fqn!r}.{suggest(fqn, sliceable)}")
    backward = _only(graph.gradients, wanted)
    example = {
        s.fqn: torch.empty(s.shape, dtype=getattr(torch, s.dtype), device="meta") for s in graph.batch_slots
    }
    scores = {fqn: np.zeros(sliceable[fqn].channels or 0) for fqn in wanted}
    named = [graph.task.named(batch) for batch in batches]
    if not named:
        raise PlanError("Fisher information needs batches, but there are none. Pass at least one.")
    for step, batch in enumerate(named):
        check_batch(batch, example)
        gradients = interpret(backward, batch, step=step)
        for slot in backward.outputs:
            grad = gradients[slot.name]
            dim = sliceable[slot.fqn].channel_dim
            others = [d for d in range(grad.ndim) if d != dim]
            square = grad.double().square()
            scores[slot.fqn] += (square.sum(others) if others else square).numpy()
    return scores


def _only(gradients: Graph, wanted: list[str]) -> Graph:
    """The gradient graph that gives `wanted` and nothing else."""
    new = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    new.graph_copy(gradients.fx, copied)
    pairs = [
        (slot, copied[node])
        for slot, node in zip(gradients.outputs, output_args(gradients.fx))
        if slot.role is Role.GRAD and slot.fqn in wanted
    ]
    new.output(tuple(node for _, node in pairs))
    new.eliminate_dead_code()
    return Graph(new, gradients.inputs, tuple(slot for slot, _ in pairs), gradients.values)
