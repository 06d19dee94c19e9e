"""The plan of the largest lower bound, against trying every plan."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from test_constraints import RATIOS, costs, subject
from test_evolution import between

from pockgraph.contribution import Contribution, Gain
from pockgraph.contribution.forecast import Forecaster, TrainedPlan
from pockgraph.errors import BudgetError, PlanError
from pockgraph.plan import Budget
from pockgraph.search import Constraints, frontier, search
from pockgraph.search.lower_bound import Z
from pockgraph.study.trained_plans import measured_ratios


class Known(Forecaster):
    """A forecaster whose scores are given."""

    def __init__(self, scores: Contribution) -> None:
        super().__init__(scores)
        self.__dict__["scores"] = scores


def uncertain(model: str, seed: int) -> tuple[Contribution, Contribution]:
    """Scores with standard deviations, and a table of their variances."""
    _, table = subject(model)
    rng = random.Random(seed)

    def mapped(value) -> Contribution:
        weights = {fqn: {r: value(g) for r, g in gains.items()} for fqn, gains in table.weights.items()}
        biases = {k: value(g) for k, g in table.biases.items()}
        return Contribution(table.baseline, weights, biases, table.bias_order, table.head)

    scores = mapped(lambda g: Gain(g.mean, rng.choice([0.02, 0.1, 0.3, 0.6]) * rng.uniform(0.5, 1), 1))
    stds = iter([g.std for t in (*scores.weights.values(), scores.biases) for g in t.values()])
    return scores, mapped(lambda g: Gain(next(stds) ** 2, 0.0, 1))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("model", ["mobilenet", "transformer"])
def test_no_plan_within_the_budget_has_a_larger_lower_bound(model: str, seed: int) -> None:
    profile, _ = subject(model)
    scores, variances = uncertain(model, seed)
    best: dict[int, float] = {}
    for shares in itertools.product((0.0, *RATIOS), repeat=len(scores.weights)):
        for k in (0, *scores.biases):
            choice = dict.fromkeys((*scores.head, *scores.bias_order[:k]), 1.0)
            choice |= {fqn: share for fqn, share in zip(scores.weights, shares) if share}
            bound = scores.predicted_gain(choice) - Z * math.sqrt(variances.predicted_gain(choice))
            peak = costs(model, tuple(sorted(choice.items())))
            best[peak] = max(best.get(peak, -math.inf), bound)
    for share in (0.3, 0.7, 1.0):
        budget = math.ceil(between(profile, scores, "peak_bytes", share))
        plan = search(profile, Known(scores), Budget(peak_bytes=budget), objective="lower_bound")
        ratios = measured_ratios(plan, scores)
        found = scores.predicted_gain(ratios) - Z * math.sqrt(variances.predicted_gain(ratios))
        assert plan.predicted["peak_bytes"] <= budget
        assert found == pytest.approx(max(b for peak, b in best.items() if peak <= budget), abs=1e-7)


def test_what_is_certain_is_preferred_to_what_is_large() -> None:
    profile, table = subject("mobilenet")
    sure, lucky = list(table.weights)[:2]
    weights = {sure: {1.0: Gain(0.05, 0.005, 5)}, lucky: {1.0: Gain(0.06, 0.2, 5)}}
    scores = Contribution(Gain(0.5, 0.0, 5), weights, head=table.head)
    one_more = Constraints(max_tensors=len(table.head) + 1)
    for objective, chosen in (("mean", lucky), ("lower_bound", sure)):
        plan = search(profile, Known(scores), Budget(), constraints=one_more, objective=objective)
        assert set(plan.tensors) == {*table.head, chosen}


def test_constraints_hold_for_it_too() -> None:
    profile, _ = subject("mobilenet")
    scores, _ = uncertain("mobilenet", 1)
    name = next(iter(scores.weights))
    plan = search(profile, Known(scores), Budget(), locked={name: 0.5}, objective="lower_bound")
    assert measured_ratios(plan, scores)[name] == 0.5
    with pytest.raises(BudgetError, match="smallest feasible"):
        search(profile, Known(scores), Budget(peak_bytes=1), objective="lower_bound")


def test_it_needs_to_know_how_uncertain_gains_are() -> None:
    profile, table = subject("mobilenet")
    with pytest.raises(PlanError, match=r"Study\.forecaster"):
        search(profile, table, Budget(), objective="lower_bound")
    with pytest.raises(PlanError, match=r"'mean' or 'lower_bound'"):
        search(profile, table, Budget(), objective="worst")  # pyright: ignore[reportArgumentType]
    with pytest.raises(PlanError, match="exact search"):
        search(profile, Forecaster(table), Budget(), method="evolutionary", objective="lower_bound")


def test_a_plan_by_forecasts_carries_them() -> None:
    profile, table = subject("mobilenet")
    forecaster = Forecaster(table)
    plan = search(profile, forecaster, Budget())
    p = plan.predicted
    assert p["gain_low"] < p["gain"] < p["gain_high"]
    assert p["metric_low"] < p["metric"] < p["metric_high"]
    assert p["score"] == pytest.approx(forecaster.scores.predicted_gain(measured_ratios(plan, table)))


@pytest.mark.parametrize("seed", range(3))
def test_the_forecast_rises_along_a_frontier_also_where_plans_were_trained(seed: int) -> None:
    profile, table = subject("mobilenet")
    rng = random.Random(seed)
    trained = [
        TrainedPlan({fqn: rng.choice([0, *RATIOS]) for fqn in table.weights}, rng.uniform(0, 0.3))
        for _ in range(4)
    ]
    plans = frontier(profile, Forecaster(uncertain("mobilenet", seed)[0], trained), 20)
    forecasts = [p.predicted["metric"] for p in plans]
    assert len(plans) > 1
    assert forecasts == sorted(set(forecasts))
