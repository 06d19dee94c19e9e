"""One cell of the coverage matrix: a model, a kind of plan, a target and an optimizer, against the oracle."""

from __future__ import annotations

import functools
import itertools
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from oracle import (
    ALL_OPTIMIZERS,
    PLANS,
    assert_equal_steps,
    assert_frozen_unchanged,
    lrs_for,
)
from truth import Steps, Truth

import pockgraph as pg
from pockgraph.errors import PockError
from pockgraph.targets import target_names
from pockgraph.task.batch import as_named
from pockgraph.train_graph import TrainGraph
from zoo import families


def _drawn(graph: TrainGraph) -> pg.Plan:
    """Six tensors at random, each whole or with random channels; the same ones every time."""
    draw = random.Random(graph.name)
    rows = draw.sample(graph.tensors, min(6, len(graph.tensors)))
    choice: dict[str, float | list[int]] = {}
    for row in rows:
        whole = row.channels is None or draw.random() < 0.5
        count = 1 if row.channels is None else draw.randint(1, row.channels)
        choice[row.fqn] = 1.0 if whole else sorted(draw.sample(range(row.channels or 0), count))
    return pg.Plan.of(graph, choice)


PLAN_KINDS: dict[str, Callable[[TrainGraph], pg.Plan]] = {
    "full": PLANS["full"],
    "head": PLANS["head"],
    "biases": PLANS["biases"],
    "parts": PLANS["half"],
    "random": _drawn,
}


@dataclass(frozen=True)
class Cell:
    """What is compiled, and for what."""

    model: str
    plan: str
    target: str
    optimizer: str

    def __str__(self) -> str:
        return f"{self.model}-{self.plan}-{self.target}-{self.optimizer}"


@dataclass(frozen=True)
class Outcome:
    """How a cell came out.

    Attributes:
        kind: `"right"`: three steps equal eager PyTorch's; `"refused"`: the project says why not;
            `"wrong"`: neither, which is a bug.
        reason: empty when it is right.
    """

    kind: Literal["right", "refused", "wrong"]
    reason: str = ""


def cells(
    every_optimizer: bool = False,
    plans: Sequence[str] = tuple(PLAN_KINDS),
    targets: Sequence[str] = target_names(),
) -> list[Cell]:
    """Every model with every kind of plan on every target.

    What an optimizer adds to a graph does not depend on the model, so that by default the optimizers
    take turns: each meets every target and every kind of plan, with some of the models.
    """
    made = []
    names = [model for family in families().values() for model in family]
    rules = list(ALL_OPTIMIZERS)
    places = itertools.product(enumerate(names), enumerate(plans), enumerate(targets))
    for (i, model), (j, plan), (k, target) in places:
        turn = [rules[(i + j + k) % len(rules)]]
        made += [Cell(model, plan, target, rule) for rule in (rules if every_optimizer else turn)]
    return made


def run_cell(cell: Cell) -> Outcome:
    """Compile, take three steps with their own batches and rates, evaluate, compare."""
    try:
        graph = _graph(cell.model, cell.optimizer)
        small = graph.prune(PLAN_KINDS[cell.plan](graph))
        got = _compiled_steps(small, cell)
        assert_equal_steps(got, _truth(cell.model, cell.optimizer, small.plan.to_json()), small)
        assert_frozen_unchanged(got, small)
    except PockError as e:
        return Outcome("refused", str(e).replace("\n", " "))
    except AssertionError as e:
        return Outcome("wrong", str(e).partition("\n")[0])
    except Exception as e:  # a bug anywhere below must be a cell of the table and not its end
        return Outcome("wrong", f"{type(e).__name__}: {str(e).partition(chr(10))[0]}")
    return Outcome("right")


def _compiled_steps(small: TrainGraph, cell: Cell) -> Steps:
    batches, lrs = _batches(small.task), lrs_for(ALL_OPTIMIZERS[cell.optimizer])
    with tempfile.TemporaryDirectory() as folder:
        # No parity record: what it would prove is what this compares.
        trainer = pg.compile(small, target=cell.target, out=Path(folder) / "out", parity=False).trainer()
        arrays = [{k: v.numpy() for k, v in b.items()} for b in batches]
        losses = [trainer.step(b, lr=lr).loss for b, lr in zip(arrays, lrs, strict=True)]
        weights = {fqn: torch.from_numpy(w) for fqn, w in trainer.state().items()}
        metric = torch.from_numpy(np.asarray(trainer.evaluate([arrays[0]]).values))
        return Steps(losses, weights, metric)


def _batches(task: pg.Task) -> list[dict[str, torch.Tensor]]:
    """The first three, from the start again where there are fewer."""
    return [as_named(b) for b in itertools.islice(itertools.cycle(task.train), 3)]


@functools.cache
def _task(model: str) -> pg.Task:
    return next(family[model] for family in families().values() if model in family)()


@functools.cache
def _graph(model: str, optimizer: str) -> TrainGraph:
    """Captured once a model; an optimizer only adds nodes."""
    first = next(iter(ALL_OPTIMIZERS))
    if optimizer == first:
        return pg.build(_task(model), ALL_OPTIMIZERS[first])
    graph = replace(_graph(model, first), optimizer=ALL_OPTIMIZERS[optimizer])
    return graph.prune(pg.Plan.full(graph))


@functools.cache
def _truth(model: str, optimizer: str, plan_json: str) -> Truth:
    task, rule, plan = _task(model), ALL_OPTIMIZERS[optimizer], pg.Plan.from_json(plan_json)
    return Truth(task, plan, rule, _batches(task), lrs_for(rule))
