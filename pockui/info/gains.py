"""Gains with their confidence intervals."""

from __future__ import annotations

import math
from typing import NamedTuple

from pockgraph.contribution import Gain

# Two-sided 95 % quantiles of Student's t for 1, 2, … degrees of freedom; beyond, the normal one.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
        2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)  # fmt: skip


class Interval(NamedTuple):
    low: float
    high: float


def interval(gain: Gain) -> Interval | None:
    """The 95 % confidence interval of the mean over seeds; None for one seed, where it is unknown."""
    if gain.seeds < 2 or math.isnan(gain.std):
        return None
    degrees = gain.seeds - 1
    t = _T95[degrees - 1] if degrees <= len(_T95) else 1.96
    half = t * gain.std / math.sqrt(gain.seeds)
    return Interval(gain.mean - half, gain.mean + half)


def seeds_text(gain: Gain) -> str:
    """How sure a gain is, in words."""
    if gain.seeds < 2:
        return "one seed, spread unknown"
    return f"{gain.seeds} seeds"
