"""The parity record's judge on steps that are known to be wrong, or right."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from mutants import is_equivalent, mutated
from oracle import ALL_OPTIMIZERS, PLANS, built

import pockgraph as pg
from pockgraph.errors import ParityError
from pockgraph.passes import run
from pockgraph.task import as_named

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

    def passes(graph: Any) -> Any:
        return next(compiled, None) or run(graph)

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("pockgraph.compiler.run", passes if where == "step" else run),
    ):
        try:
            pg.compile(small if where == "step" else wrong, target="torch", out=Path(folder) / "out")
        except ParityError:
            return True
    return False


def right_step(model: str, plan: str, optimizer: str, target: str) -> str:
    """Why a right step is refused; empty where it ships."""
    assert optimizer in ALL_OPTIMIZERS
    graph = built(model, optimizer)
    with tempfile.TemporaryDirectory() as folder:
        try:
            pg.compile(graph, PLANS[plan](graph), target=target, out=Path(folder) / "out")
        except ParityError as e:
            return str(e)
    return ""
