"""Agreement: do scores from gradients rank tensors as their measured gains do? No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .gains import INTERVAL_COVERAGE, Contribution
from .scores import Scores

By = Literal["taylor", "fisher", "update"]
BY: tuple[By, ...] = ("taylor", "fisher", "update")
RANKED_BY: By = "update"
LEAST_TENSORS = 4
RESAMPLES = 1000


@dataclass(frozen=True)
class Agreement:
    """Rank correlation of one kind of score with measured gains, over weights at their ratios.

    Attributes:
        by: the score.
        spearman, kendall: from -1 to 1; NaN where all are alike.
        low, high: the 90 % interval of `spearman`, from drawing tensors anew with replacement; all ratios of
            a tensor are drawn together, as they are alike.
        tensors, pairs: how many weights, and how many of their ratios, were both scored and measured.
    """

    by: By
    spearman: float
    kendall: float
    low: float
    high: float
    tensors: int
    pairs: int


def agreements(scores: Scores, contribution: Contribution) -> tuple[Agreement, ...]:
    """One for each kind of score; empty where fewer than 4 tensors were both probed and measured."""
    groups = []
    for fqn, gains in contribution.weights.items():
        found = scores.weights.get(fqn, {})
        both = [(found[r], gains[r].mean) for r in gains if r in found]
        if both:
            groups.append(both)
    if len(groups) < LEAST_TENSORS:
        return ()
    gain = [np.array([g for _, g in group]) for group in groups]
    return tuple(
        _agreement(by, [np.array([getattr(s, by) for s, _ in group]) for group in groups], gain) for by in BY
    )


def _agreement(by: By, scores: Sequence[np.ndarray], gains: Sequence[np.ndarray]) -> Agreement:
    from scipy.stats import kendalltau  # half a second to import

    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        picked = rng.integers(len(scores), size=len(scores))
        drawn.append(_spearman(*(np.concatenate([values[i] for i in picked]) for values in (scores, gains))))
    finite = [d for d in drawn if not math.isnan(d)]
    tail = 50 * (1 - INTERVAL_COVERAGE)
    low, high = np.percentile(finite, (tail, 100 - tail)) if finite else (math.nan, math.nan)
    x, y = np.concatenate(scores), np.concatenate(gains)
    spearman = _spearman(x, y)
    kendall = math.nan if math.isnan(spearman) else float(np.asarray(kendalltau(x, y))[0])
    return Agreement(by, spearman, kendall, float(low), float(high), len(scores), len(x))


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.stats import rankdata

    a, b = rankdata(x), rankdata(y)
    if a.std() == 0 or b.std() == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])
