"""When new weights are better, and when a metric has fallen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pockgraph.runtime.learner.judgement import drift, judge


@pytest.mark.parametrize(
    ("before", "after", "better"),
    [
        ([0, 1, 0, 1], [0, 1, 0, 1], True),  # nothing moved
        ([0, 0, 0, 0, 1], [1, 1, 1, 0, 1], True),
        ([0, 0, 1, 1, 1], [1, 1, 0, 1, 1], False),  # two for one, of five
        ([0, 1] * 20, [1, 0] * 20, False),  # an equal number of both, of many
        ([1, 1, 1, 1, 0], [0, 0, 1, 1, 0], False),
        ([1, 0, 1, 1], [1, 0, 1, math.nan], False),
        ([1, 0, 1, 1], [1, 0, 1, math.inf], False),
    ],
)
def test_the_verdict_weighs_the_difference_against_its_noise(
    before: list[float], after: list[float], better: bool
) -> None:
    assert judge(before, after, 1.0).better == better


def test_the_same_difference_convinces_only_on_enough_samples() -> None:
    before = [0.0] * 2 + [1.0] * 2 + [0.5]
    after = [1.0] * 2 + [1.0, 0.0] + [0.5]
    assert not judge(before, after, 1.0).better
    assert judge(before * 8, after * 8, 1.0).better
    assert judge(before, after, 0.0).better


def test_a_mean_that_falls_is_never_better() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        before, after = draw.integers(0, 2, (2, draw.integers(2, 12))).astype(float)
        for margin in (0.0, 1.0):
            found = judge(list(before), list(after), margin)
            assert found.gain >= 0 or not found.better


def test_drift_is_a_fall_that_noise_does_not_explain() -> None:
    draw = np.random.default_rng(1)
    steady = (draw.random(250) < 0.9).astype(float).tolist()
    fallen = (draw.random(50) < 0.5).astype(float).tolist()
    assert drift(steady) is None
    found = drift(steady[:200] + fallen)
    assert found is not None
    assert found.now == pytest.approx(np.mean(fallen))
    assert found.before == pytest.approx(np.mean(steady[:200]))
    assert drift(fallen + steady[:50]) is None  # a rise is none
    assert drift(steady[:40] + fallen) is None  # too little to compare with
