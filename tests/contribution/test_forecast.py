"""Forecasts of made-up tasks, whose truth is known: how far off, how often in the interval, how lucky."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from synthetic import SyntheticTask

from pockgraph.contribution import Contribution, Gain
from pockgraph.contribution.forecast import Forecast, Forecaster, TrainedPlan
from pockgraph.contribution.noise import Noise, samples_of
from pockgraph.contribution.saturating_link import Link

TASKS = 20


def trained(task: SyntheticTask, count: int, seeds: int) -> list[TrainedPlan]:
    found = []
    for choice in (task.random_plan() for _ in range(count)):
        gains = [task.train(choice, seed) - task.train({}, seed) for seed in range(seeds)]
        found.append(TrainedPlan(choice, float(np.mean(gains)), seeds, same_head=0.0))
    return found


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("known", [0, 6])
def test_intervals_hold_what_is_trained_and_forecasts_are_nearer_than_sums(seeds: int, known: int) -> None:
    covered, errors, errors_of_sums, ranks = [], [], [], []
    for number in range(TASKS):
        task = SyntheticTask(number)
        table = task.table(seeds)
        forecaster = Forecaster(table, trained(task, known, seeds))
        plans = [task.random_plan() for _ in range(12)]
        forecasts = [forecaster.forecast(p) for p in plans]
        reached = [task.train(p, 100 + i) for i, p in enumerate(plans)]
        covered += [f.low <= metric <= f.high for f, metric in zip(forecasts, reached)]
        errors += [abs(f.metric - metric) for f, metric in zip(forecasts, reached)]
        sums = [table.baseline.mean + table.predicted_gain(p) for p in plans]
        errors_of_sums += [abs(s - metric) for s, metric in zip(sums, reached)]
        ranks.append(spearmanr([f.metric for f in forecasts], [task.gain(p) for p in plans])[0])
    assert 0.80 <= np.mean(covered) <= 0.995
    assert np.mean(errors) < 0.7 * np.mean(errors_of_sums)
    assert np.mean(ranks) > (0.75 if known else 0.55)


@pytest.mark.slow
@pytest.mark.parametrize("known", [0, 6])
def test_over_200_tasks_nine_intervals_of_ten_hold(known: int) -> None:
    covered = []
    for number in range(1000, 1200):
        task = SyntheticTask(number)
        forecaster = Forecaster(task.table(2), trained(task, known, 2))
        for i in range(5):
            plan = task.random_plan()
            found = forecaster.forecast(plan)
            covered.append(found.low <= task.train(plan, 100 + i) <= found.high)
    assert 0.80 <= np.mean(covered) <= 0.985  # the noise here does not grow with gains; real ones do


def test_plans_chosen_by_forecast_are_truly_better_than_plans_chosen_by_sums() -> None:
    """Of plans of four weights, the one that scores choose is truly better than the one that sums choose."""
    better = []
    for number in range(2 * TASKS):
        task = SyntheticTask(number, weights=12, noise=0.025)
        table = task.table(1)
        by_scores, by_sums = (task.gain(task.best(t)) for t in (Forecaster(table).scores, table))
        better.append((by_scores - by_sums) / task.headroom)
    assert np.mean(better) > 0


def test_more_seeds_and_trained_plans_narrow_the_interval() -> None:
    widths = {}
    for seeds, known in ((1, 0), (4, 0), (4, 8)):
        width = []
        for number in range(10):
            task = SyntheticTask(number)
            forecaster = Forecaster(task.table(seeds), trained(task, known, seeds))
            found = forecaster.forecast(task.random_plan())
            width.append(found.high - found.low)
        widths[seeds, known] = np.mean(width)
    assert widths[1, 0] > widths[4, 0] > widths[4, 8]


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), gains=st.lists(st.floats(-1, 1), max_size=4))
def test_no_forecast_leaves_the_range_of_the_metric(seed: int, gains: list[float]) -> None:
    task = SyntheticTask(seed % 1000)
    plans = [TrainedPlan(task.random_plan(), gain) for gain in gains]
    forecaster = Forecaster(task.table(1 + seed % 2), plans)
    for choice in (task.random_plan(), {}):
        f = forecaster.forecast(choice)
        assert 0 <= f.low <= f.metric <= f.high <= 1
        assert f.gain_low <= f.gain <= f.gain_high
        assert all(map(math.isfinite, f.figures.values()))


def test_a_trained_plan_moves_its_forecast_and_those_of_plans_like_it() -> None:
    task = SyntheticTask(3)
    table = task.table(2)
    plan = {**dict.fromkeys(task.weights, 1.0), **dict.fromkeys(task.bias_order, 1.0)}
    like, other = {k: v for k, v in plan.items() if k != "w0"}, {"w0": 0.25}
    before, gain = Forecaster(table), Forecaster(table).forecast(plan).gain - 0.08
    after = Forecaster(table, [TrainedPlan(plan, gain, trainings=5)])
    moves = [after.forecast(p).gain - before.forecast(p).gain for p in (plan, like, other)]
    assert moves[0] < moves[1] < -0.01
    assert abs(moves[2]) < abs(moves[1])
    widths = [f.forecast(plan).high - f.forecast(plan).low for f in (after, before)]
    assert widths[0] < widths[1]


def test_plans_trained_otherwise_say_less() -> None:
    task = SyntheticTask(3)
    table, plan = task.table(2), dict.fromkeys(task.weights, 1.0)
    before = Forecaster(table).forecast(plan).gain
    same, otherwise = (
        Forecaster(table, [TrainedPlan(plan, before - 0.1, 3, 1.0, conditions)]).forecast(plan).gain
        for conditions in ("", "400 steps")
    )
    assert same < otherwise < before


def test_a_metric_that_is_no_share_has_no_bounds() -> None:
    table = Contribution(Gain(-3.2, 0.1, 3), {"w": {1.0: Gain(0.9, 0.1, 3)}, "v": {1.0: Gain(0.8, 0.1, 3)}})
    both = Forecaster(table).forecast({"w": 1.0, "v": 1.0})
    assert both.low < -2.0 < both.metric < both.high
    assert Forecaster(table).bounds == (-math.inf, math.inf)


@pytest.mark.parametrize(
    "table",
    [
        Contribution(Gain(0.5, math.nan, 1)),
        Contribution(Gain(0.5, 0.0, 2), {"w": {1.0: Gain(0.0, 0.0, 2)}}),
        Contribution(Gain(1.0, math.nan, 1), {"w": {1.0: Gain(0.0, math.nan, 1)}}, noise=Noise(samples=50)),
        Contribution(Gain(0.5, math.nan, 1), {}, {4: Gain(0.1, math.nan, 1)}, tuple("abcd")),
    ],
    ids=["nothing measured", "no difference at all", "nothing left to gain", "biases only"],
)
def test_tables_that_say_nearly_nothing_are_forecast_too(table: Contribution) -> None:
    for plans in ([], [TrainedPlan({"w": 1.0, "a": 1.0}, 0.0)]):
        found = Forecaster(table, plans).forecast({"w": 1.0, **dict.fromkeys("abcd", 1.0)})
        assert all(map(math.isfinite, found.figures.values()))
        assert found.low <= found.metric <= found.high


def test_the_scores_table_adds_up_to_what_the_forecast_says_of_it() -> None:
    task = SyntheticTask(5)
    forecaster = Forecaster(task.table(2), trained(task, 3, 2))
    for _ in range(5):
        plan = task.random_plan()
        assert forecaster.forecast(plan).score == pytest.approx(forecaster.scores.predicted_gain(plan))


@pytest.mark.parametrize("known", [0, 6])
def test_estimated_gains_are_nearer_to_the_true_ones_than_measured_ones(known: int) -> None:
    estimated, measured, inside = [], [], []
    for number in range(TASKS):
        task = SyntheticTask(number)
        table = task.table(1)
        found = Forecaster(table, trained(task, known, 1)).gains
        assert found.weights.keys() == table.weights.keys()
        for fqn, by_ratio in table.weights.items():
            for ratio, gain in by_ratio.items():
                true, guess = task.gain({fqn: ratio}), found.weights[fqn][ratio]
                measured.append(abs(gain.mean - true))
                estimated.append(abs(guess.mean - true))
                inside.append(abs(guess.mean - true) <= 1.645 * guess.std)
    assert np.mean(estimated) < 0.8 * np.mean(measured)
    assert 0.8 <= np.mean(inside) <= 0.99


def test_a_larger_score_is_a_larger_forecast_where_nothing_was_trained_yet() -> None:
    """What a search over scores finds best is what is forecast best, but for what noise alone moves."""
    task = SyntheticTask(7)
    forecaster = Forecaster(task.table(5))
    found = [forecaster.forecast(task.random_plan()) for _ in range(30)]
    assert spearmanr([f.score for f in found], [f.gain for f in found])[0] > 0.98


def test_each_gain_closes_a_share_of_what_is_left() -> None:
    link = Link(0.2, 0.7)
    a, b = (link.score(np.array(g)) for g in (0.05, 0.1))
    assert link.gain(a + b) == pytest.approx(0.2 * (1 - (1 - 0.05 / 0.2) * (1 - 0.1 / 0.2)))
    for gain in (-0.3, 0.0, 0.15):
        assert link.gain(link.score(np.array(gain))) == pytest.approx(gain)
    assert link.gain(np.array([100.0, -100.0])).tolist() == pytest.approx([0.2, -0.7])
    step = 1e-6
    at = np.array([-0.2, 0.1])
    assert link.slope(at) == pytest.approx((link.gain(at + step) - link.gain(at - step)) / 2 / step, abs=1e-5)


def test_a_mean_of_zeros_and_ones_is_known_by_its_steps() -> None:
    assert samples_of([0.25, 0.5, 41 / 360, 7 / 360]) == 360
    assert samples_of([0.25, 0.5]) is None, "two values fit many numbers of samples"
    assert samples_of([-0.25, 0.5, 0.75]) is None
    assert samples_of([0.25, 0.5, 1.75]) is None
    assert samples_of(np.random.default_rng(0).random(5)) is None


def test_the_noise_is_what_neither_the_plan_nor_the_seed_explains() -> None:
    rng = np.random.default_rng(0)
    plans, seeds = rng.normal(0, 3, 40), rng.normal(0, 5, 6)
    metrics = {
        i: {s: plans[i] + seeds[s] + rng.normal(0, 0.1) for s in range(6) if (i + s) % 5} for i in range(40)
    }
    noise = Noise.of(metrics)
    assert noise.std == pytest.approx(0.1, rel=0.15)
    assert noise.degrees == sum(map(len, metrics.values())) - 40 - 6 + 1 - 5
    assert Noise.of({0: {0: 0.5}, 1: {0: 0.7}}).degrees == 0


def test_noise_that_grows_with_the_gain_is_told_from_noise_that_does_not() -> None:
    rng = np.random.default_rng(1)
    gains, factors = rng.uniform(0, 0.3, 60), rng.normal(0, 0.3, 8)
    metrics = {
        i: {s: 0.5 + gain * (1 + factors[s]) + rng.normal(0, 0.01) for s in range(8)}
        for i, gain in enumerate(gains)
    }
    noise = Noise.of(metrics)
    assert noise.std == pytest.approx(0.01, rel=0.15)
    assert noise.growth == pytest.approx(np.std(factors, ddof=1), rel=0.2)
    without = Noise.of(
        {i: {s: 0.5 + gain + rng.normal(0, 0.01) for s in range(8)} for i, gain in enumerate(gains)}
    )
    assert without.growth < 0.03


def test_a_contribution_without_known_noise_takes_it_from_its_gains() -> None:
    task = SyntheticTask(11)
    table = task.table(3)
    known = Forecaster(table)
    guessed = Forecaster(dataclasses.replace(table, noise=None))
    assert guessed._shrunk.noise_std == pytest.approx(known._shrunk.noise_std, rel=0.5)


def test_it_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pockgraph.contribution.forecast import Forecaster\n"
        "from pockgraph.contribution import Contribution, Gain\n"
        "print(Forecaster(Contribution(Gain(0.5, 0.1, 2))).forecast({}).metric)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(found.stdout) == pytest.approx(0.5)


def test_an_interval_of_a_single_value_holds_it_however_it_was_rounded() -> None:
    f = Forecast(metric=0.3, low=0.3, high=0.3, gain=0.0, gain_low=0.0, gain_high=0.0, score=0.0)
    assert f.holds(0.1 + 0.2)
    assert not f.holds(0.3001)
    assert not f.holds(math.nan)
