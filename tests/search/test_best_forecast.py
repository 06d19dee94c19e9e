"""The plan that a search returns is the one of the best forecast, also where trained plans say otherwise."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_constraints import RATIOS, subject

from pockgraph.contribution import Contribution, Gain
from pockgraph.contribution.forecast import Forecaster, TrainedPlan
from pockgraph.contribution.noise import Noise
from pockgraph.plan import Budget, presets
from pockgraph.profile import Profile
from pockgraph.search import frontier, search

SHARES = (*RATIOS, 0.25, 0.7)
SAME = 1e-5  # the search tells equal plans apart by how deep they reach


def measured(model: str, seed: int) -> tuple[Profile, Contribution]:
    """Gains as one analysis of accuracies measures them, from a head of 0.55."""
    profile, table = subject(model)
    rng = random.Random(seed)
    gain = lambda: Gain(round(rng.gauss(0.04, 0.06) * 200) / 200, 0.02, 2)  # noqa: E731
    weights = {fqn: {r: gain() for r in gains} for fqn, gains in table.weights.items()}
    biases = {k: gain() for k in table.biases}
    return profile, Contribution(
        Gain(0.55, 0.02, 2), weights, biases, table.bias_order, table.head, noise=Noise(samples=200)
    )


def random_plan(table: Contribution, rng: random.Random) -> dict[str, float]:
    """Weights at ratios of which some were not measured, and a number of biases."""
    choice = dict.fromkeys((*table.head, *table.bias_order[: rng.randint(0, len(table.bias_order))]), 1.0)
    return choice | {fqn: rng.choice(SHARES) for fqn in table.weights if rng.random() < 0.6}


def peaks(profile: Profile, table: Contribution) -> tuple[int, int]:
    """Modelled peaks of training the head alone, and everything."""
    head, whole = dict.fromkeys(table.head, 1.0), {t.fqn: 1.0 for t in profile.tensors}
    return profile.figures(head).peak_bytes, profile.figures(whole).peak_bytes


@pytest.mark.parametrize("model", ["mobilenet", "transformer"])
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.2, 0.6, 1.0]))
def test_no_plan_that_fits_is_forecast_above_the_one_that_is_found(
    model: str, seed: int, share: float
) -> None:
    profile, table = measured(model, seed)
    rng = random.Random(seed)
    choices = [random_plan(table, rng) for _ in range(rng.randint(1, 5))]
    trained = [
        TrainedPlan(c, rng.uniform(-0.45, 0.3), rng.randint(1, 3), rng.choice([0.0, 1.0]), conditions)
        for c in choices
        for conditions in [rng.choice(["", "", "400 steps"])]
    ]
    forecaster = Forecaster(table, trained)
    head, (least, most) = dict.fromkeys(table.head, 1.0), peaks(profile, table)
    budget = round(least + share * (most - least))
    found = search(profile, forecaster, Budget(peak_bytes=budget)).predicted
    others = [head, presets.preset(profile), {t.fqn: 1.0 for t in profile.tensors}, *choices]
    others += [head | {fqn: r} for fqn, gains in table.weights.items() for r in gains]
    others += [random_measured(table, rng) for _ in range(20)]
    for other in others:
        if profile.figures(other).peak_bytes <= budget:
            assert forecaster.forecast(other).metric <= found["metric"] + SAME, other


def random_measured(table: Contribution, rng: random.Random) -> dict[str, float]:
    k = rng.choice([0, *table.biases])
    choice = dict.fromkeys((*table.head, *table.bias_order[:k]), 1.0)
    return choice | {fqn: rng.choice([*gains]) for fqn, gains in table.weights.items() if rng.random() < 0.5}


def trainings_that_disappoint(table: Contribution) -> list[TrainedPlan]:
    """As a quick analysis of EfficientNet had it: head alone 0.565, the automatic plan 0.29, all 0.265."""
    whole = dict.fromkeys((*table.head, *table.weights, *table.bias_order), 1.0)
    best = {fqn: 1.0 for fqn, gains in table.weights.items() if gains[1.0].mean > 0}
    return [TrainedPlan(best | dict.fromkeys(table.head, 1.0), -0.275), TrainedPlan(whole, -0.3)]


def test_where_trained_plans_lost_no_plan_is_forecast_below_the_head_alone() -> None:
    profile, table = measured("mobilenet", 3)
    trained = trainings_that_disappoint(table)
    before, forecaster = Forecaster(table), Forecaster(table, trained)
    head = forecaster.forecast(dict.fromkeys(table.head, 1.0))
    for one in trained:
        assert forecaster.forecast(one.ratios).metric < before.forecast(one.ratios).metric - 0.1
    least, most = peaks(profile, table)
    for share in (0.1, 0.4, 1.0):
        plan = search(profile, forecaster, Budget(peak_bytes=round(least + share * (most - least))))
        assert plan.predicted["metric"] >= head.metric


def test_where_nothing_gains_nothing_is_trained_beside_the_head() -> None:
    profile, table = measured("mobilenet", 1)
    none = Gain(0.0, 0.0, 2)
    weights = {fqn: dict.fromkeys(gains, none) for fqn, gains in table.weights.items()}
    table = dataclasses.replace(table, weights=weights, biases=dict.fromkeys(table.biases, none))
    for peak in (None, peaks(profile, table)[1]):
        assert set(search(profile, Forecaster(table), Budget(peak_bytes=peak)).tensors) == set(table.head)


def test_the_forecast_never_falls_with_more_memory() -> None:
    profile, table = measured("mobilenet", 4)
    rng = random.Random(4)
    trained = [TrainedPlan(random_plan(table, rng), rng.uniform(-0.2, 0.2)) for _ in range(4)]
    forecaster = Forecaster(table, trained)
    least, most = peaks(profile, table)
    found = [
        search(profile, forecaster, Budget(peak_bytes=round(least + i / 12 * (most - least)))).predicted
        for i in range(13)
    ]
    for less, more in itertools.pairwise(found):
        assert more["metric"] >= less["metric"] - SAME
    rising = [plan.predicted["metric"] for plan in frontier(profile, forecaster, 12)]
    assert rising == sorted(set(rising))


def test_what_is_forecast_better_is_what_scores_higher() -> None:
    _, table = measured("transformer", 5)
    rng = random.Random(5)
    forecaster = Forecaster(table, [TrainedPlan(random_plan(table, rng), -0.1) for _ in range(3)])
    found = sorted((forecaster.forecast(random_plan(table, rng)) for _ in range(40)), key=lambda f: f.score)
    for field in ("metric", "gain"):
        values = [getattr(f, field) for f in found]
        assert values == sorted(values)


def test_a_trained_ratio_between_measured_ones_may_be_chosen_and_changes_no_sum() -> None:
    _, table = measured("mobilenet", 6)
    rng = random.Random(6)
    plans = [random_plan(table, rng) for _ in range(5)]
    longer = table.with_amounts_of(plans)
    assert any(set(longer.weights[fqn]) > set(gains) for fqn, gains in table.weights.items())
    assert set(longer.biases) > set(table.biases)
    for _ in range(20):
        plan = random_plan(table, rng)
        assert longer.predicted_gain(plan) == pytest.approx(table.predicted_gain(plan))


@pytest.mark.parametrize("disappointed", [False, True])
def test_a_gain_is_what_is_forecast_of_the_plan_that_trains_it_alone(disappointed: bool) -> None:
    _, table = measured("mobilenet", 3)
    forecaster = Forecaster(table, trainings_that_disappoint(table) if disappointed else ())
    for fqn, gains in forecaster.gains.weights.items():
        for ratio, gain in gains.items():
            assert (gain.mean > 0) == (forecaster.scores.weights[fqn][ratio].mean > 0)
            alone = forecaster.forecast(dict.fromkeys(table.head, 1.0) | {fqn: ratio})
            assert gain.mean == pytest.approx(alone.gain, abs=1e-9)
