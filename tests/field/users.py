"""What the tests of this folder share: a task in a line, and "compiled, it does what eager PyTorch does".

Each test is something that a user did. It is right, or refused with words that name the cause and the remedy.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracle import assert_equal_steps, assert_frozen_unchanged, lrs_for
from torch import Tensor, nn
from truth import Steps, Truth

import pockgraph as pg
from pockgraph.optimizer import Optimizer
from pockgraph.targets import target_names
from pockgraph.task.batch import as_named
from pockgraph.train_graph import TrainGraph

Batch = dict[str, Tensor]

MOMENTUM = pg.SGD(lr=0.05, momentum=0.9)
CLASSES = 5


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def summed(model: nn.Module, batch: Any) -> Tensor:
    """A metric for any model whose output's first dimension is the batch's."""
    return model(batch["x"]).flatten(1).sum(1)


def batches(*shape: int, count: int = 3) -> list[dict[str, Tensor]]:
    """`x` of normal values `[*shape]` and class labels `y` `[shape[0]]`, the same ones every time."""
    g = torch.Generator().manual_seed(0)
    return [
        {"x": torch.randn(*shape, generator=g), "y": torch.randint(0, CLASSES, shape[:1], generator=g)}
        for _ in range(count)
    ]


def task(
    model: nn.Module,
    data: Sequence[Any],
    loss: Callable[[nn.Module, Any], Tensor] = cross_entropy,
    metric: Callable[[nn.Module, Any], Tensor] = summed,
    **how: Any,
) -> pg.Task:
    return pg.Task("field", model, loss, metric, data, data, **how)


def mlp() -> nn.Sequential:
    """`[N, 12]` to logits `[N, CLASSES]`."""
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, CLASSES))


def draws(**shapes: Any) -> list[Batch]:
    """Three batches: of a shape, normal values; of a shape and a number, integers below it."""
    g = torch.Generator().manual_seed(0)

    def one(what: Any) -> Tensor:
        if isinstance(what[0], tuple):
            return torch.randint(0, what[1], what[0], generator=g)
        return torch.randn(*what, generator=g)

    return [{name: one(what) for name, what in shapes.items()} for _ in range(3)]


def half(graph: TrainGraph) -> pg.Plan:
    """Half the channels of what has channels, and everything of every third tensor."""
    return pg.Plan.of(
        graph,
        {
            t.fqn: 0.5 if t.channel_dim is not None and t.channels > 1 else 1.0
            for i, t in enumerate(graph.tensors)
            if i % 3 != 1
        },
    )


def in_turn(names: Iterable[str]) -> list[Any]:
    """(name, target) for `parametrize`: the fast suite takes each name to one target, in turn."""
    targets = target_names()
    return [
        pytest.param(name, target, id=f"{name}-{target}", marks=[pytest.mark.slow] * (i % len(targets) != j))
        for i, name in enumerate(names)
        for j, target in enumerate(targets)
    ]


def assert_as_eager(
    task: pg.Task,
    target: str,
    optimizer: Optimizer = MOMENTUM,
    plan: Callable[[TrainGraph], pg.Plan] = pg.Plan.full,
) -> None:
    """Compiled (its own comparison on), three steps equal eager PyTorch's, and the model is untouched."""
    untouched = copy.deepcopy(task.model.state_dict())
    graph = pg.build(task, optimizer)
    small = graph.prune(plan(graph))
    data, lrs = [as_named(b) for b, _ in zip(task.train, range(3))], lrs_for(optimizer)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pg.compile(small, target=target, out=Path(folder) / "out").trainer()
        losses = [trainer.step(b, lr=lr).loss for b, lr in zip(data, lrs)]
        weights = {fqn: torch.from_numpy(w) for fqn, w in trainer.state().items()}
        metric = torch.from_numpy(np.asarray(trainer.evaluate([data[0]]).values))
    after = task.model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in untouched.items()), "the user's model was changed"
    got = Steps(losses, weights, metric)
    assert_equal_steps(got, Truth(task, small.plan, optimizer, data, lrs), small)
    assert_frozen_unchanged(got, small)
