"""Judgement: whether new weights are better than those that answer; and whether these get worse (drift)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRIFT_RECENT, DRIFT_BEFORE, DRIFT_NOISE = 50, 200, 3.0


@dataclass(frozen=True)
class Judgement:
    """What held-out samples say of new weights.

    Attributes:
        before, after: the mean metric of the weights that answer, and of the new ones.
        noise: the standard error of the difference, from the samples' own differences.
        samples: how many there were.
        better: whether the new weights may answer.
    """

    before: float
    after: float
    noise: float
    samples: int
    better: bool

    @property
    def gain(self) -> float:
        return self.after - self.before


def judge(before: Sequence[float], after: Sequence[float], margin: float) -> Judgement:
    """Compare the metric of each held-out sample before and after training.

    New weights are better where the mean does not fall, and rises by at least `margin` standard errors of the
    difference: the fewer the samples, the more must be seen. Weights that leave each sample's metric as it
    was, have no difference and no noise, and pass. A metric that is not finite does not.
    """
    old, new = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if not np.isfinite(new).all():
        return Judgement(float(old.mean()), math.nan, math.nan, len(new), False)
    difference = new - old
    noise = float(difference.std(ddof=1) / math.sqrt(len(difference))) if len(difference) > 1 else math.inf
    gain = float(difference.mean())
    return Judgement(float(old.mean()), float(new.mean()), noise, len(new), gain >= max(0.0, margin * noise))


@dataclass(frozen=True)
class Drift:
    """The metric on arriving samples fell.

    Attributes:
        before, now: its means over the samples before and over the newest; noise: the standard error of
            their difference.
    """

    before: float
    now: float
    noise: float


def drift(scores: Sequence[float]) -> Drift | None:
    """Whether the metric on the newest 50 arriving samples is lower than on up to 200 before them, by more
    than 3 standard errors.

    Args:
        scores: in the order of arrival, each by the weights that answered then.
    """
    values = np.asarray(scores, np.float64)
    now, before = values[-DRIFT_RECENT:], values[:-DRIFT_RECENT][-DRIFT_BEFORE:]
    if len(now) < DRIFT_RECENT or len(before) < DRIFT_RECENT:
        return None
    noise = math.sqrt(now.var(ddof=1) / len(now) + before.var(ddof=1) / len(before))
    found = Drift(float(before.mean()), float(now.mean()), noise)
    return found if found.before - found.now > DRIFT_NOISE * noise else None
