"""Solving by cut depth finds what trying everything finds, and what HiGHS finds of the linear program."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random

import pytest
from models import ZOO
from test_evolution import between, random_table

from pockgraph.contribution import Contribution, Gain
from pockgraph.plan import Budget
from pockgraph.search import Constraints, integer_program, search
from pockgraph.search.integer_program import IntegerProgram
from pockgraph.search.linear_solver import minimize


def stepped(table: Contribution) -> Contribution:
    """Gains in steps of a sample, so that many plans gain the same."""
    step = lambda gain: dataclasses.replace(gain, mean=round(gain.mean * 50) / 50)  # noqa: E731
    weights = {fqn: {q: step(g) for q, g in gains.items()} for fqn, gains in table.weights.items()}
    return dataclasses.replace(table, weights=weights, biases={k: step(g) for k, g in table.biases.items()})


@pytest.mark.parametrize("model", ZOO)
@pytest.mark.parametrize("many_equal", [False, True])
def test_no_plan_of_the_linear_program_gains_more(model: str, many_equal: bool) -> None:
    profile, table = random_table(model, seed=1)
    table = stepped(table) if many_equal else table
    by_depth, by_highs = (IntegerProgram(profile, table, Constraints()) for _ in range(2))
    by_highs._by_depth = False
    for by, share in itertools.product(("peak_bytes", "extra_bytes", "step_ms"), (0.25, 0.6)):
        budget = Budget(**{by: between(profile, table, by, share)})  # pyright: ignore[reportArgumentType]
        found, other = by_depth.solve(budget), by_highs.solve(budget)
        assert found.predicted[by] <= getattr(budget, by)
        assert found.predicted["gain"] >= other.predicted["gain"] - 1e-9
        # HiGHS keeps a distance from a limit, so that it may miss what is very near to it.
        least = dataclasses.replace(budget, **{by: getattr(budget, by) * (1 + 1e-4) + 1e-9})
        assert found.predicted["gain"] <= by_highs.solve(least).predicted["gain"] + 1e-9


def test_networks_are_solved_by_depth_and_not_by_highs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_program, "minimize", lambda *_: pytest.fail("HiGHS was called"))
    for model in ("mobilenet", "transformer", "resnet"):
        profile, table = random_table(model, seed=2)
        budget = Budget(peak_bytes=math.ceil(between(profile, table, "peak_bytes", 0.5)))
        assert search(profile, table, budget).predicted["peak_bytes"] <= (budget.peak_bytes or 0)


@pytest.mark.parametrize("limit", ["MOST_STATES", "MOST_ITEMS"])
def test_what_is_too_much_for_knapsacks_goes_to_highs(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    profile, table = random_table("transformer", seed=3)
    budget = Budget(peak_bytes=math.ceil(between(profile, table, "peak_bytes", 0.5)))
    best = IntegerProgram(profile, table, Constraints()).solve(budget).predicted["gain"]
    where = "knapsack" if limit == "MOST_STATES" else "cut_depths"
    monkeypatch.setattr(f"pockgraph.search.{where}.{limit}", 0)
    calls = []
    monkeypatch.setattr(integer_program, "minimize", lambda *args: calls.append(1) or minimize(*args))
    assert IntegerProgram(profile, table, Constraints()).solve(budget).predicted["gain"] <= best + 1e-9
    assert calls


def test_equal_gains_go_to_the_plan_that_trains_less() -> None:
    profile, table = random_table("mobilenet", seed=4)
    same = {fqn: dict.fromkeys(gains, Gain(0.1, 0.0, 3)) for fqn, gains in table.weights.items()}
    table = dataclasses.replace(table, weights=same, biases={})
    for limit in (None, 10**9):
        plan = search(profile, table, Budget(peak_bytes=limit))
        for fqn, gains in table.weights.items():
            count = len(plan.tensors[fqn].channels or ())
            assert count == len(profile.plan({fqn: min(gains)}).tensors[fqn].channels or ())


def scaled(table: Contribution, factor: float) -> Contribution:
    """Gains of a metric in other units."""
    change = lambda gain: dataclasses.replace(gain, mean=factor * gain.mean)  # noqa: E731
    weights = {fqn: {q: change(g) for q, g in gains.items()} for fqn, gains in table.weights.items()}
    return dataclasses.replace(table, weights=weights, biases={k: change(g) for k, g in table.biases.items()})


@pytest.mark.parametrize("by_depth", [True, False])
@pytest.mark.parametrize("unit", [1.0, 1e-12, 1e9])
def test_a_budget_is_answered_the_same_after_others_and_in_any_unit_of_the_metric(
    unit: float, by_depth: bool
) -> None:
    profile, table = random_table("unet", seed=5)
    budgets = [
        Budget(peak_bytes=math.ceil(between(profile, table, "peak_bytes", s / 9))) for s in range(1, 9)
    ]

    def program(factor: float) -> IntegerProgram:
        made = IntegerProgram(profile, scaled(table, factor), Constraints())
        made._by_depth = by_depth
        return made

    fresh = [program(1.0).solve(budget) for budget in budgets]
    random.Random(0).shuffle(order := list(range(len(budgets))))
    used = program(unit)
    again = {n: used.solve(budgets[n]) for n in order}
    assert [again[n].tensors for n in range(len(budgets))] == [plan.tensors for plan in fresh]
    gains = [plan.predicted["gain"] for plan in fresh]
    assert gains == sorted(gains)
