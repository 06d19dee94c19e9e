from __future__ import annotations

import math

import pytest

from pockui.demo.results import Trial
from pockui.demo.tuning import FURTHER, choose_rate, lies_at_end, tune

GRID = (0.001, 0.003, 0.01, 0.03)


def _peak_at(best: float):
    """A metric that falls on either side of a rate, and how often each was asked for."""
    asked: list[float] = []

    def measure(lr: float) -> float:
        asked.append(lr)
        return -abs(math.log(lr / best))

    return measure, asked


def test_a_best_rate_within_the_grid_ends_the_search() -> None:
    measure, asked = _peak_at(0.01)
    assert choose_rate(tune(measure, GRID)) == 0.01
    assert asked == list(GRID)


@pytest.mark.parametrize(("best", "further"), [(0.09, [0.09, 0.3]), (0.0003, [0.0003, 9e-05])])
def test_rates_beyond_the_end_are_tried_until_the_best_lies_between_two(
    best: float, further: list[float]
) -> None:
    measure, asked = _peak_at(best)
    trials = tune(measure, GRID)
    assert choose_rate(trials) == best
    assert asked[len(GRID) :] == further
    assert not lies_at_end(trials, best)
    assert [t.lr for t in trials] == sorted(t.lr for t in trials)


def test_a_metric_that_grows_for_ever_ends_after_a_few() -> None:
    trials = tune(lambda lr: lr, GRID)
    assert len(trials) == len(GRID) + FURTHER
    assert lies_at_end(trials, choose_rate(trials))


def test_one_that_diverges_beyond_the_grid_is_not_chosen() -> None:
    trials = tune(lambda lr: lr if lr < 0.05 else None, GRID)
    assert choose_rate(trials) == 0.03
    assert trials[-1].metric is None


@pytest.mark.parametrize("metric", [0.8, None])
def test_rates_that_are_all_as_good_or_all_diverge_are_not_followed_outwards(metric: float | None) -> None:
    assert len(tune(lambda lr: metric, GRID)) == len(GRID)


def test_best_rate_is_the_smaller_of_equals_and_never_one_that_diverged() -> None:
    tried = [Trial(lr=0.1, metric=0.8), Trial(lr=0.01, metric=0.8), Trial(lr=1.0, metric=None)]
    assert choose_rate(tried) == 0.01
    assert choose_rate([Trial(lr=1.0, metric=None)]) is None
