"""Training steps taken with exported programs, by PyTorch or by another runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from oracle import next_state, whole
from torch import Tensor
from truth import Steps

from pockgraph.ir.graph import Graph, Role
from pockgraph.passes import run
from pockgraph.prng import step_keys
from pockgraph.targets.exported_program import arguments
from pockgraph.task.batch import Batch
from pockgraph.train_graph import TrainGraph

Function = Callable[..., Sequence[Tensor]]


def call(
    function: Function, graph: Graph, values: Mapping[str, Tensor], batch: Batch, lr: float, step: int = 0
) -> Sequence[Tensor]:
    """The outputs of `graph`, whose program `function` runs."""
    given = {
        Role.BATCH: lambda s: batch[s.fqn],
        Role.LR: lambda s: torch.tensor(lr),
        Role.SEED: lambda s: torch.from_numpy(step_keys(0, step)),
    }
    return function(*(given.get(s.role, lambda s: values[s.name])(s) for s in arguments(graph)))


def run_exported(
    graph: TrainGraph, batches: Sequence[Batch], lrs: Sequence[float], load: Callable[[Graph], Function]
) -> Steps:
    """Take the steps of `graph` (a plan's graph) and evaluate the first batch.

    Args:
        load: makes what `call` takes of a graph after the passes that all targets share.
    """
    train, evaluation = run(graph), run(graph.evaluation())
    step_of, values, losses = load(train), dict(train.values), []
    for step, (batch, lr) in enumerate(zip(batches, lrs, strict=True)):
        outputs = call(step_of, train, values, batch, lr, step)
        losses.append(float(outputs[0]))
        values |= next_state(train, outputs)
    metric = call(load(evaluation), evaluation, {**evaluation.values, **values}, batches[0], 0.0)[0]
    weights = {fqn: whole(graph, fqn, values[f"trained:{fqn}"]) for fqn in graph.plan.tensors}
    return Steps(losses, weights | {s.fqn: values[s.name] for s in train.inputs if s.changes}, metric)
