"""Calibration: what gain a score lets expect, from the candidates that have both. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from .agreement import RANKED_BY, By
from .gains import Candidate
from .scores import Scores

SHARED = 0.7  # correlation that is assumed between the ratios of one tensor, the score set aside
LEAST = 4  # measured candidates from which a slope is taken


@dataclass(frozen=True)
class GainEstimate:
    """A gain that was not measured.

    Attributes:
        mean: expected, from the score's rank. std: how far measured gains lie from what theirs lets expect.
    """

    mean: float
    std: float


def estimates(
    scores: Scores, candidates: Iterable[Candidate], gains: Mapping[Candidate, float], by: By = RANKED_BY
) -> dict[Candidate, GainEstimate]:
    """What each candidate with a score is expected to gain.

    A straight line through measured gains over the rank of the score among `candidates`, which never falls:
    where measured gains fall with the score, it says nothing, and all are expected to gain the average. What
    a tensor gained more or less than that at other ratios, it is expected to in part at this one.

    Args:
        gains: measured, of some of the candidates.

    Returns:
        Empty where fewer than 4 were measured.
    """
    scored = {c: getattr(s, by) for c in candidates if (s := scores.of(c)) is not None}
    order = sorted(scored, key=scored.__getitem__)
    rank = {c: i / max(1, len(order) - 1) for i, c in enumerate(order)}
    both = [c for c in gains if c in rank]
    if len(both) < LEAST:
        return {}
    x, y = np.array([rank[c] for c in both]), np.array([gains[c] for c in both])
    slope = max(0.0, float(np.cov(x, y)[0, 1] / x.var(ddof=1))) if x.std() else 0.0
    level = float(y.mean() - slope * x.mean())
    spread = float(np.sqrt(np.square(y - level - slope * x).sum() / max(1, len(both) - 2)))
    beyond: dict[str, list[float]] = {}
    for c in both:
        if c.kind == "weight":
            beyond.setdefault(c.fqn, []).append(gains[c] - level - slope * rank[c])
    found = {}
    for c in order:
        others = beyond.get(c.fqn, []) if c.kind == "weight" else []
        shared = SHARED if others else 0.0
        mean = level + slope * rank[c] + shared * sum(others) / max(1, len(others))
        found[c] = GainEstimate(mean, spread * math.sqrt(1 - shared**2))
    return found
