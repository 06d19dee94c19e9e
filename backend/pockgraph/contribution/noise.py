"""How much a metric differs from one training to the next, as far as an analysis shows it.

With several seeds their spread shows it: a part of it is alike for all that is trained, another grows with
what is gained, as a seed whose batches suit the task makes all gains larger. With one seed, only a metric
that is a mean of zeros and ones says something of its own noise: that of drawing so many validation samples.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_SAMPLES = 20_000  # of validation data that are looked for behind a metric
LEAST_VALUES = 3  # different ones, so that no other number of samples fits them by chance
EXACT = 1e-9


@dataclass(frozen=True)
class Noise:
    """What is known of the noise of one training's metric.

    Attributes:
        std: standard deviation between trainings of one plan, without what all trainings of a seed share;
            NaN where no two seeds were taken. degrees: of freedom of that estimate.
        growth: standard deviation, from seed to seed, of the factor by which all gains are larger or smaller.
            growth_degrees: likewise.
        samples: validation samples of a metric that is a mean of zeros and ones; None for any other.
    """

    std: float = math.nan
    degrees: int = 0
    growth: float = math.nan
    growth_degrees: int = 0
    samples: int | None = None

    @classmethod
    def of(cls, metrics: Mapping[Any, Mapping[int, float]]) -> Noise:
        """
        Args:
            metrics: what was trained -> seed -> metric.
        """
        samples = samples_of({m for by_seed in metrics.values() for m in by_seed.values()})
        return cls(*_residual(metrics), samples)

    def sampling_std(self, metric: float) -> float:
        """Of a metric near `metric`, from drawing the validation samples; NaN where that is not known."""
        if self.samples is None:
            return math.nan
        # Half a sample away from 0 and 1, where a binomial variance would be 0.
        share = min(max(metric, 0.5 / self.samples), 1 - 0.5 / self.samples)
        return math.sqrt(share * (1 - share) / self.samples)


def samples_of(metrics: Collection[float]) -> int | None:
    """The least n of which all metrics are multiples of 1/n, as means of n zeros and ones are.

    None where there is none up to `MOST_SAMPLES`, where a metric is not in 0..1, or where they are too few
    to tell.
    """
    values = np.array(sorted(set(metrics)))
    if len(values) < LEAST_VALUES or values[0] < 0 or values[-1] > 1:
        return None
    counts = np.arange(1, MOST_SAMPLES + 1)
    for value in values:
        products = counts * value
        counts = counts[np.abs(products - np.round(products)) <= EXACT * counts]
    return int(counts[0]) if len(counts) else None


def _residual(metrics: Mapping[Any, Mapping[int, float]]) -> tuple[float, int, float, int]:
    """The fields of `Noise` that the spread over seeds tells: of what plan and seed alone do not explain."""
    several = [by_seed for by_seed in metrics.values() if len(by_seed) > 1]
    seeds = sorted({seed for by_seed in several for seed in by_seed})
    table = np.array([[by_seed.get(seed, math.nan) for seed in seeds] for by_seed in several])
    degrees = int(np.isfinite(table).sum()) - len(several) - len(seeds) + 1 if seeds else 0
    if degrees < 1:
        return math.nan, 0, math.nan, 0
    level = np.nanmean(table, 1)
    for _ in range(20):  # with no gap in the table the first round is exact
        table = table - np.nanmean(table, 1, keepdims=True)
        table = table - np.nanmean(table, 0, keepdims=True)
    level = level - level.mean()
    size, growth_degrees = float(level @ level), len(seeds) - 1
    growth = math.nan
    if size > 0 and degrees > growth_degrees:
        factors = np.nansum(table * level[:, None], 0) / size
        degrees -= growth_degrees
        left = np.nansum((table - level[:, None] * factors) ** 2) / degrees
        # Noise alone would make the factors differ by so much.
        growth = math.sqrt(max(float(factors @ factors) / growth_degrees - float(left) / size, 0.0))
    else:
        growth_degrees, left = 0, np.nansum(table**2) / degrees
    return math.sqrt(float(left)), degrees, growth, growth_degrees
