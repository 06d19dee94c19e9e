"""The judge refuses steps that are wrong on purpose; `benchmarks/judge_mutants.py` tries more of them."""

from __future__ import annotations

import pytest
from judging import mutant, right_step
from mutants import mutated
from oracle import ALL_OPTIMIZERS, PLANS, built

from pockgraph.parity.split_step import SplitStep
from pockgraph.parity.updates import check_update

QUICK = [
    ("mlp", "full", "momentum", "step", 0), ("mlp", "full", "adamw", "step", 2),
    ("mlp", "half", "everything", "step", 3), ("mlp", "full", "clip", "step", 5),
    ("batch_norms", "full", "momentum", "step", 4), ("batch_norms", "half", "adamw", "graph", 6),
]  # fmt: skip
MUTANTS = {"mlp": 3, "batch_norms": 2}  # of a cell


@pytest.mark.parametrize(("model", "plan", "optimizer", "where", "first"), QUICK)
def test_wrong_steps_are_refused(model: str, plan: str, optimizer: str, where: str, first: int) -> None:
    judged = [
        found
        for seed in range(first, first + MUTANTS[model])
        if (found := mutant(model, plan, optimizer, where, seed))
    ]
    assert any(found.outcome == "refused" for found in judged)
    assert not [found for found in judged if found.outcome == "missed"]


@pytest.mark.parametrize("optimizer", ALL_OPTIMIZERS)
def test_wrong_updates_in_the_graph_are_refused(optimizer: str) -> None:
    """Whatever `is_equivalent` says: a rule that is off by a thousandth hides in float32's rounding."""
    graph = built("mlp", optimizer)
    right = graph.prune(PLANS["half"](graph))
    split = SplitStep(right, right.task.example, 0)
    gradients = split.run_gradients().gradients
    assert not check_update(right, split, gradients).refusal
    missed = []
    for seed in range(6):
        wrong, what = mutated(right, seed, ("update",))
        found = check_update(wrong, SplitStep(wrong, wrong.task.example, 0), gradients)
        if not found.refusal:
            missed.append(what)
    # The length of what only its sign is taken of means nothing.
    assert all(optimizer == "lion" and what.startswith("a thousandth too long") for what in missed), missed


def test_a_right_step_ships() -> None:
    assert right_step("mlp", "half", "adafactor", "torch") == ""
