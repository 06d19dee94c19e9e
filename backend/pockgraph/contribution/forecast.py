"""What metric a plan will reach: a forecast with its interval, from measured gains and from trained plans.

The measured gains of single tensors are first shrunk (`shrinkage.py`), and trained plans move them
(`joint_estimate.py`); a saturating link (`saturating_link.py`) turns their sum into the gain of a plan. How
much there is to gain, and how far plans stray from the link, is not known beforehand: it is averaged over a
grid, by a prior and by how well each value explains the plans that were trained.

A search needs one sum over tensors that decides which plan is better. That is the *score*: the average of
the scores by all values of the grid. The forecast rises with it and depends on nothing else (`_Rise`): of
two plans the one of the larger score has the better forecast, whatever was trained. Intervals are each
plan's own.

No torch here: a study is planned with where torch is absent.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from .gains import INTERVAL_COVERAGE, Contribution, Gain
from .joint_estimate import Estimate, JointEstimates, TrainedPlan, best_of_each, variances
from .saturating_link import NODES, WEIGHTS, Link
from .shrinkage import LEAST_STD, Items, shrink

__all__ = ["Forecast", "Forecaster", "TrainedPlan"]

Numbers = NDArray[np.floating[Any]]

SHARES = np.linspace(0.1, 1.0, 10)  # of the room up to the metric's maximum that plans may gain at most
MULTIPLES = np.geomspace(1.1, 30.0, 10)  # the same, in units of the largest gain, where there is no maximum
STRAYS = (0.1, 0.2, 0.4)  # std of a plan's gain around the link, as a share of what its tensors add together
STRAY_WEIGHTS = (0.25, 0.5, 0.25)
NEAREST = 40  # steps of the bisection for a quantile


def in_interval(metric: float, low: float, high: float) -> bool:
    """Whether a value lies between two, but for rounding: an interval may be a single value."""
    rounding = 1e-9 * max(abs(low), abs(high))
    return low - rounding <= metric <= high + rounding


@dataclass(frozen=True)
class Forecast:
    """What one training of a plan is expected to reach, as the analysis trains and judges.

    Attributes:
        metric: expected validation metric. low, high: of the interval that holds it with `INTERVAL_COVERAGE`.
        gain: expected gain over the head alone. gain_low, gain_high: likewise, by the same seed.
        score: what a search maximises: gains as far as they add up, before they saturate. A plan of a larger
            score has the larger `metric` and `gain`.
    """

    metric: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float
    score: float

    def holds(self, metric: float) -> bool:
        """Whether a training's validation metric lies inside the interval."""
        return in_interval(metric, self.low, self.high)

    @property
    def figures(self) -> dict[str, float]:
        """As a plan's `predicted` holds them."""
        return {
            "gain": self.gain, "gain_low": self.gain_low, "gain_high": self.gain_high, "metric": self.metric,
            "metric_low": self.low, "metric_high": self.high, "score": self.score,
        }  # fmt: skip


class _Member(NamedTuple):
    """One value of what is not known, with what follows from it, and how probable it is."""

    weight: float
    estimate: Estimate


class _Rise(NamedTuple):
    """How the expected gain rises with the score: an average over links of score times factor.

    Attributes:
        links: with the factor and the weight of each: the factors are above 0, so that it rises everywhere.
    """

    links: Sequence[tuple[Link, Numbers, Numbers]]

    def gain(self, score: float) -> float:
        return float(sum(link.gain(score * factors) @ weights for link, factors, weights in self.links))


class Forecaster:
    """Forecasts of all plans of one study.

    Args:
        contribution: the measured gains.
        trained: plans that were trained, with what they gained.

    Attributes:
        contribution, trained: as given.
        bounds: the least and the most that the metric can be: 0 and 1 for a mean of zeros and ones (see
            `noise.samples_of`), else infinite.
    """

    def __init__(self, contribution: Contribution, trained: Sequence[TrainedPlan] = ()) -> None:
        self.contribution, self.trained = contribution, tuple(trained)
        self._items = Items.of(contribution)
        self._shrunk = shrink(contribution, self._items)
        self._joint = JointEstimates(self._items, self._shrunk, self.trained)
        known = contribution.noise is not None and contribution.noise.samples is not None
        self.bounds = (0.0, 1.0) if known else (-math.inf, math.inf)

    # ------------------------------------------------------------------ asked for

    def forecast(self, ratios: Mapping[str, float]) -> Forecast:
        """Of the plan that trains these ratios beside the head.

        Args:
            ratios: FQN -> trained ratio.
        """
        score = self.scores.predicted_gain(ratios)
        expected = self._rise.gain(score)
        head = self.contribution.baseline.mean - self._head_error
        gain = self._quantiles(self._items.parts(ratios)[None], expected, of_gain=True)
        metric = self._quantiles(self._items.parts(ratios)[None], head + expected, of_gain=False)
        (least, most), measured = self.bounds, self.contribution.baseline.mean
        gain, gain_low, gain_high = (float(np.clip(g, least - measured, most - measured)) for g in gain)
        metric, low, high = (float(np.clip(m, least, most)) for m in metric)
        return Forecast(
            metric=metric, low=low, high=high, gain=gain, gain_low=gain_low, gain_high=gain_high, score=score
        )

    @property
    def run_std(self) -> float:
        """Standard deviation of the metric from one training of a plan to another, of another seed."""
        return self._shrunk.run_std

    @functools.cached_property
    def scores(self) -> Contribution:
        """The table in units of the score, which adds up: its largest sum is the largest forecast.

        Each gain's `std` is what is not known of it, whatever the number of its seeds.
        """
        return self._table(*self._moments(lambda _, score, variance: (score, variance)))

    @functools.cached_property
    def gains(self) -> Contribution:
        """The table with each gain as it is forecast, so that gains and scores have one sign and one order.

        Each gain's `std` is what is not known of it, whatever the number of its seeds.
        """

        def of_score(link: Link, score: Numbers, variance: Numbers) -> tuple[Numbers, Numbers]:
            gain, spread, _ = link.moments(score, np.sqrt(variance))
            return gain, spread

        mean = np.array([self._rise.gain(score.mean) for score in _in_order(self.scores, self._items)])
        return self._table(mean, self._moments(of_score)[1])

    def _moments(
        self, of_score: Callable[[Link, Numbers, Numbers], tuple[Numbers, Numbers]]
    ) -> tuple[Numbers, Numbers]:
        """Mean and standard deviation of what `of_score` makes of each item's score and of its variance."""
        n = len(self._items.gains)
        mean, second = np.zeros(n), np.zeros(n)
        for weight, estimate in self._members:
            variance = np.maximum(np.diag(estimate.covariance)[:n], 0)
            value, spread = of_score(estimate.link, estimate.scores, variance)
            mean += weight * value
            second += weight * (spread + value**2)
        mean[np.abs(mean) < NOTHING] = 0.0
        return mean, np.sqrt(np.maximum(second - mean**2, 0))

    def _table(self, mean: Numbers, std: Numbers) -> Contribution:
        """The measured table with other values."""
        of = [Gain(float(m), float(s), g.seeds) for m, s, g in zip(mean, std, self._items.gains, strict=True)]
        c = self.contribution
        return Contribution(
            c.baseline,
            {fqn: {r: of[i] for r, i in places} for fqn, places in self._items.weights.items()},
            {int(k): of[i] for k, i in self._items.biases},
            c.bias_order, c.head, c.diverged,
        )  # fmt: skip

    # ------------------------------------------------------------------ the model

    @functools.cached_property
    def _members(self) -> list[_Member]:
        found, logs = [], []
        for link, log_prior in self._links():
            for stray, weight in zip(STRAYS, STRAY_WEIGHTS, strict=True):
                estimate = self._joint.of(link, stray)
                found.append(estimate)
                logs.append(log_prior + math.log(weight) + estimate.log_likelihood)
        weights = np.exp(np.array(logs) - max(logs))
        weights /= weights.sum()
        kept = weights > 1e-4
        weights /= weights[kept].sum()
        return [_Member(float(w), e) for w, e, k in zip(weights, found, kept, strict=True) if k]

    def _links(self) -> list[tuple[Link, float]]:
        """Links with the logarithm of their prior: how likely it is that all gains keep to the headroom."""
        n = len(self._items.gains)
        mean = self._shrunk.mean[:n]
        std = np.sqrt(np.diag(self._shrunk.covariance)[:n]) + 1e-12
        head = self.contribution.baseline.mean
        if math.isfinite(self.bounds[1]):
            most = max(self.bounds[1] - head, 1e-6)
            down = max(head - self.bounds[0], 1e-6)
            links = [Link(share * most, down) for share in SHARES]
        else:
            largest = max(float(np.max(np.abs(mean), initial=0.0)), self._shrunk.noise_std, 1e-9)
            links = [Link(multiple * largest) for multiple in MULTIPLES]
        found = []
        for link in links:
            keeps = np.log(np.maximum(ndtr((link.up - mean) / std), 1e-12))
            found.append((link, float(np.min(keeps, initial=0.0))))
        return found

    @functools.cached_property
    def _head_error(self) -> float:
        """How much better the head alone was measured than it is, as far as is known."""
        return sum(weight * estimate.head_error for weight, estimate in self._members)

    @functools.cached_property
    def _rise(self) -> _Rise:
        """The average over the members; each sees the common scores by a factor of its own, and what is not
        known of a large sum as more such factors."""
        common = np.array([gain.mean for gain in _in_order(self.scores, self._items)])
        top = best_of_each(self._items, common)
        if not top.any():
            top = best_of_each(self._items, np.abs(common))
        whole = float(top @ common)
        links = []
        for weight, (link, scores, _, covariance, *_) in self._members:
            own = float(top @ scores)
            factor = max(own / whole, LEAST_FACTOR) if whole else 1.0
            spread = math.sqrt(max(float(variances(top[None], covariance)[0]), 0.0))
            relative = min(spread / max(abs(own), 1e-12), MOST_RELATIVE) if whole else 0.0
            factors = factor * np.exp(relative * NODES - relative**2 / 2)
            links.append((link, factors, weight * WEIGHTS))
        return _Rise(links)

    def _quantiles(self, parts: Numbers, mean: float, *, of_gain: bool) -> tuple[float, float, float]:
        """(mean, low, high) of the gain or of the metric of one training of a plan."""
        predicted = [self._predict(estimate, parts)[0 if of_gain else 1] for _, estimate in self._members]
        means, stds = np.array(predicted).T
        weights = np.array([weight for weight, _ in self._members])
        means = means + (mean - weights @ means)
        low, high = (_quantile(level, means, stds, weights) for level in TAILS)
        return mean, min(low, mean), max(high, mean)

    def _predict(self, estimate: Estimate, parts: Numbers) -> tuple[tuple[float, float], tuple[float, float]]:
        """Mean and standard deviation of the gain, and of the metric, of one training of a plan."""
        (expected,), (spread,), (slope,) = estimate.moments(parts)
        head, noise = self.contribution.baseline.mean, self._shrunk.noise_std
        covariance = estimate.covariance
        # The gain counts from the true head, the metric from the measured one less its error.
        of_head = covariance[-1, -1] - 2 * slope * parts[0] @ covariance[:-1, -1]
        stray = self._joint.own_stray_std(estimate, parts)[0] ** 2
        # Of this training, and of those on average that the gains were measured in.
        stray += (self._shrunk.growth * expected) ** 2 * (1 + 1 / self.contribution.baseline.seeds)
        gain = max(spread, 0.0) + stray + 2 * noise**2
        metric = max(spread + of_head, 0.0) + stray + self._shrunk.run_std**2
        return (expected, math.sqrt(gain)), (head + expected - estimate.head_error, math.sqrt(metric))


NOTHING = 1e-3 * LEAST_STD  # of a metric: what rounding makes of gains that are all 0
LEAST_FACTOR = 1e-3  # by which a member sees the common scores
MOST_RELATIVE = 1.0
TAILS = ((1 - INTERVAL_COVERAGE) / 2, (1 + INTERVAL_COVERAGE) / 2)


def _in_order(table: Contribution, items: Items) -> list[Gain]:
    """The gains of a table in the order of items."""
    found = {i: table.weights[fqn][r] for fqn, places in items.weights.items() for r, i in places}
    found |= {i: table.biases[int(k)] for k, i in items.biases}
    return [found[i] for i in sorted(found)]


def _quantile(level: float, means: Numbers, stds: Numbers, weights: Numbers) -> float:
    """Of a mixture of normal distributions."""
    stds = np.maximum(stds, 1e-15)
    ends = means + ndtri(level) * stds
    low, high = float(ends.min()), float(ends.max())
    for _ in range(NEAREST):
        middle = (low + high) / 2
        if weights @ ndtr((middle - means) / stds) < level:
            low = middle
        else:
            high = middle
    return (low + high) / 2
