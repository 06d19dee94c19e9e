"""The parity record's judge on steps that are known to be wrong, or right."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import hard_networks  # noqa: F401  (registers its tasks)
import models
import policies
from mutants import is_equivalent, mutated
from oracle import ALL_OPTIMIZERS, PLANS, built
from zoo import recurrent

import pockgraph as pg
from pockgraph.errors import ParityError, PlanError
from pockgraph.passes import Pipeline, run
from pockgraph.targets import target_names
from pockgraph.task.batch import as_named

models.register(recurrent.MODELS)

# Networks, plans and optimizers in turn; mistakes in the compiled step, and in the graph that it comes from.
CELLS: list[tuple[str, str, str, Literal["step", "graph"]]] = [
    ("mlp", "full", "momentum", "step"),
    ("resnet", "half", "adamw", "step"),
    ("transformer", "full", "everything", "step"),
    ("batch_norms", "full", "momentum", "step"),
    ("mobilenet", "full", "nesterov", "graph"),
    ("tied", "full", "lion", "step"),
    ("batch_resnet", "biases", "adam", "step"),
    ("bert", "half", "adafactor", "step"),
    ("unet", "full", "clip", "step"),
    ("transformer", "preset", "accumulate", "step"),
    ("mobilenet", "eighth", "groups", "step"),
    ("batch_norms", "half", "adamw", "graph"),
    ("twice", "full", "amsgrad", "step"),
    ("resnet", "full", "sgd", "graph"),
]

# Batch norm in training mode, kinks, heads without a scale, dropout, recurrence, and the networks above.
RIGHT = [
    *dict.fromkeys(model for model, *_ in CELLS), *policies.BATCH_NORM, "kinks", "cosine", "normalised",
    *policies.DROPOUT, *recurrent.MODELS,
]  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """A mutant and what became of it."""

    cell: str
    kind: str
    what: str
    outcome: Literal["refused", "missed", "equivalent"]


def mutant(model: str, plan: str, optimizer: str, where: str, seed: int) -> Judged | None:
    """Judge one mutant; None where the mistake gives no graph that runs."""
    graph = built(model, optimizer)
    small = graph.prune(PLANS[plan](graph))
    right = run(small) if where == "step" else small
    phases = ("forward", "backward", "update") if where == "step" else ("forward", "backward")
    try:
        wrong, what = mutated(right, seed, phases)
        batches = [as_named(b) for b in graph.task.train] + [graph.task.example]
        equivalent = is_equivalent(right, wrong, batches, graph.optimizer.lr)
    except (RuntimeError, AssertionError, ValueError, TypeError):
        return None
    kind = what.partition(":")[0]
    outcome: Any = "equivalent" if equivalent else "refused" if _refused(small, wrong, where) else "missed"
    return Judged(f"{model}-{plan}-{optimizer}-{where}", kind, what, outcome)


def _refused(small: pg.TrainGraph, wrong: Any, where: str) -> bool:
    compiled = iter([wrong])

    def start(pipeline: Pipeline, graph: Any, name: str, *how: Any) -> Any:
        return next(compiled, None) or run(graph, pipeline.shared, name)

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(Pipeline, "start", start if where == "step" else Pipeline.start),
    ):
        try:
            pg.compile(small if where == "step" else wrong, target="torch", out=Path(folder) / "out")
        except ParityError:
            return True
    return False


def right_cells() -> Iterator[tuple[str, str, str, str]]:
    """Networks in turn, each time with another plan, optimizer and target."""
    names, targets = list(dict.fromkeys(RIGHT)), target_names()
    for i in itertools.count():
        turn, model = divmod(i, len(names))
        plan = [*PLANS][(5 * turn + model) % len(PLANS)]
        optimizer = [*ALL_OPTIMIZERS][(7 * turn + model) % len(ALL_OPTIMIZERS)]
        yield names[model], plan, optimizer, targets[(turn + model) % len(targets)]


def right_step(model: str, plan: str, optimizer: str, target: str) -> str | None:
    """Why a right step is refused; empty where it ships, None where the network has no such plan."""
    graph = built(model, optimizer)
    try:
        small = graph.prune(PLANS[plan](graph))
    except PlanError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            pg.compile(small, target=target, out=Path(folder) / "out")
        except ParityError as e:
            return str(e)
    return ""
