"""How gains of single tensors add up to the gain of a plan: each closes a share of what is left to gain.

With headroom H a gain g closes the share g / H of it, and shares closed one after another compose as
1 - (1 - a / H)(1 - b / H)…. On the scale of scores s = -H ln(1 - g / H) that is a sum, so that the plan of
the largest score is the one of the largest gain, and a search over sums stays exact. Small gains are their
own scores. What is lost below the head composes likewise, towards the least the metric can be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating[Any]]

MOST_SHARE = 0.97  # of the headroom that a single tensor is taken to close
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(15)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


@dataclass(frozen=True)
class Link:
    """From the sum of scores to the gain over the head.

    Attributes:
        up, down: the most that can be gained and lost; `down` may be infinite.
    """

    up: float
    down: float = math.inf

    def gain(self, score: Numbers) -> Numbers:
        above = -self.up * np.expm1(-np.maximum(score, 0) / self.up)
        if math.isinf(self.down):
            return np.where(score >= 0, above, score)
        return np.where(score >= 0, above, self.down * np.expm1(np.minimum(score, 0) / self.down))

    def slope(self, score: Numbers) -> Numbers:
        """Of the gain, by score: 1 at 0."""
        down = (
            np.exp(np.minimum(score, 0) / self.down) if math.isfinite(self.down) else np.ones(np.shape(score))
        )
        return np.where(score >= 0, np.exp(-np.maximum(score, 0) / self.up), down)

    def score(self, gain: Numbers) -> Numbers:
        """The score whose gain this is; of a gain beyond the headroom, that of nearly all of it."""
        above = -self.up * np.log1p(-np.clip(gain / self.up, 0, MOST_SHARE))
        if math.isinf(self.down):
            return np.where(gain >= 0, above, gain)
        return np.where(gain >= 0, above, self.down * np.log1p(np.clip(gain / self.down, -MOST_SHARE, 0)))

    def moments(self, mean: Numbers, std: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Mean and variance of the gain of normal scores, and the mean slope."""
        scores = mean[..., None] + std[..., None] * NODES
        gains = self.gain(scores)
        expected = gains @ WEIGHTS
        return expected, ((gains - expected[..., None]) ** 2) @ WEIGHTS, self.slope(scores) @ WEIGHTS
