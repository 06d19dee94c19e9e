"""Gains with their confidence intervals."""

from __future__ import annotations

import math
from fractions import Fraction
from statistics import NormalDist
from typing import NamedTuple

from scipy.special import stdtrit  # Student's t by its quantiles; scipy.stats takes half a second to import

from pockgraph.contribution import Gain
from pockgraph.contribution.gains import INTERVAL_COVERAGE

_SHARE = Fraction(INTERVAL_COVERAGE).limit_denominator(1000)
COVERAGE_TEXT = f"{_SHARE.numerator} of {_SHARE.denominator}"  # what lies in an interval, in words
# From the mean to an end of the interval of an estimate.
HALF_STDS = NormalDist().inv_cdf((1 + INTERVAL_COVERAGE) / 2)


class Interval(NamedTuple):
    """Both ends, in the metric's own scale."""

    low: float
    high: float


def interval(gain: Gain) -> Interval | None:
    """The 95 % confidence interval of the mean over seeds; None for one seed, where it is unknown."""
    if gain.seeds < 2 or math.isnan(gain.std):
        return None
    half = float(stdtrit(gain.seeds - 1, 0.975)) * gain.std / math.sqrt(gain.seeds)
    return Interval(gain.mean - half, gain.mean + half)


def estimated_interval(gain: Gain) -> Interval:
    """The interval that holds an estimated gain (`Forecaster.gains`) with `INTERVAL_COVERAGE`."""
    return Interval(gain.mean - HALF_STDS * gain.std, gain.mean + HALF_STDS * gain.std)


def seeds_text(gain: Gain) -> str:
    """How sure a gain is, in words."""
    if gain.seeds < 2:
        return "one seed, spread unknown"
    return f"{gain.seeds} seeds"
