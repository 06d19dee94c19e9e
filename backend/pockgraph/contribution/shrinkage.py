"""True gains from measured ones: an empirical Bayes estimate for the whole table at once.

A measured gain is the true one, plus the noise of its own training, minus the noise of the head's. The true
gains of a kind (weights, last k biases) vary around a mean that grows with what is trained, and the gains
of one tensor at several ratios vary together: a Gaussian prior whose scale the table itself tells. What a
single seed showed is thereby pulled to what its neighbours and its kind showed, the more the noisier it is;
and the noise of the head's own training, which is in every measured gain alike, is taken out as far as it
shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import minimize

from .gains import Contribution, Gain, count_last_biases
from .noise import Noise

Numbers = NDArray[np.floating[Any]]

GROWTH = 0.5  # a gain grows as this power of the trained ratio, before anything is measured
TOGETHER = 0.5  # share of a tensor's variance that all its ratios have in common
LEAST_STD = 1e-9  # of a metric; what is exactly alike still has an inverse
ONE_SEED_STD = 0.5  # log of the noise around that of sampling, where one seed was taken
FIRST_GROWTH = 0.15  # before the seeds show it
FIRST_DEGREES = 3  # how many seeds more than one a first guess is worth
UNKNOWN_STD = 1.0  # log of a scale of which only the order of magnitude is known


@dataclass(frozen=True)
class Items:
    """What was measured beside the head, one after another.

    Attributes:
        weights: FQN -> (ratio, position), in rising order of the ratio. biases: (k, position).
        gains: in the order of positions.
    """

    weights: Mapping[str, Sequence[tuple[float, int]]]
    biases: Sequence[tuple[float, int]]
    bias_order: tuple[str, ...]
    gains: tuple[Gain, ...]

    @classmethod
    def of(cls, contribution: Contribution) -> Items:
        gains: list[Gain] = []

        def places(table: Mapping[Any, Gain]) -> list[tuple[float, int]]:
            gains.extend(table[amount] for amount in sorted(table))
            return [(amount, len(gains) - len(table) + i) for i, amount in enumerate(sorted(table))]

        weights = {fqn: places(table) for fqn, table in contribution.weights.items()}
        return cls(weights, places(contribution.biases), contribution.bias_order, tuple(gains))

    def parts(self, ratios: Mapping[str, float]) -> Numbers:
        """[n]: how much of each item a plan trains: 1 of a measured one, less between two of a tensor.

        As `Contribution.predicted_gain` has it: what was not measured counts nothing, and biases count as
        the last k.
        """
        found = np.zeros(len(self.gains))
        for fqn, places in self.weights.items():
            _add(found, places, ratios.get(fqn, 0.0))
        _add(found, self.biases, count_last_biases(ratios, self.bias_order))
        return found

    def prior(self) -> tuple[Numbers, Numbers, Numbers]:
        """([n, n] covariance of gains in units of the kind's variance, [n, 2] growth of its mean, kinds)."""
        n = len(self.gains)
        covariance, growth, is_bias = np.zeros((n, n)), np.zeros((n, 2)), np.zeros(n)
        groups = [(places, 1.0, 0) for places in self.weights.values()]
        groups += [(self.biases, max((k for k, _ in self.biases), default=1.0), 1)]
        for places, whole, kind in groups:
            at = [position for _, position in places]
            grown = np.array([(amount / whole) ** GROWTH for amount, _ in places])
            alike = np.outer(grown, grown)
            covariance[np.ix_(at, at)] = TOGETHER * alike + (1 - TOGETHER) * np.minimum.outer(grown, grown)
            growth[at, kind] = grown
            is_bias[at] = kind
        return covariance, growth, is_bias


def _add(found: Numbers, places: Iterable[tuple[float, int]], amount: float) -> None:
    below, last = 0.0, -1
    for measured, position in places:
        if measured >= amount:
            share = (amount - below) / (measured - below)
            found[position] = share
            if last >= 0:
                found[last] = 1 - share
            return
        below, last = measured, position
    if last >= 0:
        found[last] = 1.0


@dataclass(frozen=True)
class Shrunk:
    """Estimates of true gains, and of how much better the head was measured than it is.

    Attributes:
        mean, covariance: [n + 1], [n + 1, n + 1]: of the true gain of each item, and last of the error of
            the head's measured metric.
        noise_std: of one training's metric, without what all trainings of a seed share.
        run_std: the same with it: from one training to another of another seed.
        growth: standard deviation, from seed to seed, of the factor by which gains are larger or smaller.
    """

    mean: Numbers
    covariance: Numbers
    noise_std: float
    run_std: float
    growth: float


def shrink(contribution: Contribution, items: Items) -> Shrunk:
    """The empirical Bayes estimate for a table."""
    return _Table(contribution, items).estimate()


class _Table:
    """The measured gains with their priors."""

    def __init__(self, contribution: Contribution, items: Items) -> None:
        self.head = contribution.baseline
        self.noise = contribution.noise or Noise()
        self.measured = np.array([gain.mean for gain in items.gains])
        self.per_seed = 1 / np.array([gain.seeds for gain in items.gains], float)
        self.covariance, self.growth, self.is_bias = items.prior()
        self.scale = max(float(np.sqrt(np.mean(self.measured**2))) if len(self.measured) else 0.0, LEAST_STD)
        self.sampling_std = self.noise.sampling_std(self.head.mean)
        self.spread, self.degrees = self._spread(items)

    def _spread(self, items: Items) -> tuple[float, int]:
        """Noise as the seeds show it: of the metrics where they are known, else of the gains."""
        if self.noise.degrees:
            return self.noise.std, self.noise.degrees
        several = [gain for gain in items.gains if gain.seeds > 1]
        degrees = sum(gain.seeds - 1 for gain in several)
        if not degrees:
            return math.nan, 0
        # A gain is a difference of two trainings, and all gains of a seed share one of them.
        variance = sum((gain.seeds - 1) * gain.std**2 for gain in several) / degrees / 2
        return math.sqrt(variance), degrees

    def estimate(self) -> Shrunk:
        if not len(self.measured):
            noise = self._first_guess()
            variance = np.array([[noise**2 / self.head.seeds]])
            return Shrunk(np.zeros(1), variance, noise, self._run_std(noise), self._growth())
        start = np.log([self.scale, self.scale, self._first_guess()])
        step = np.vstack([start, start + np.diag([0.7, 0.7, 0.4])])
        found = minimize(
            self._badness, start, method="Nelder-Mead",
            options={"initial_simplex": step, "maxfev": 80, "xatol": 0.05, "fatol": 0.05},
        )  # fmt: skip
        weights, biases, noise = np.exp(found.x)
        prior = self._prior(weights, biases)
        total, head = self._total(prior, noise)
        factor = cho_factor(total)
        n = len(self.measured)
        # Of (gains, error of the head) with the measured gains, and among themselves.
        shared = np.vstack([prior, np.full(n, -head)])
        whole = np.zeros((n + 1, n + 1))
        whole[:n, :n], whole[n, n] = prior, head
        mean = shared @ cho_solve(factor, self.measured)
        covariance = whole - shared @ cho_solve(factor, shared.T)
        noise = float(noise)
        return Shrunk(mean, (covariance + covariance.T) / 2, noise, self._run_std(noise), self._growth())

    def _first_guess(self) -> float:
        known = [s for s in (self.spread, self.sampling_std) if math.isfinite(s)]
        return max(known[0] if known else self.scale / 2, LEAST_STD)

    def _prior(self, weights: float, biases: float) -> Numbers:
        std = np.where(self.is_bias > 0, biases, weights)
        means = self.growth * self.scale
        return self.covariance * np.outer(std, std) + means @ means.T

    def _total(self, prior: Numbers, noise: float) -> tuple[Numbers, float]:
        """Covariance of the measured gains, and variance of the head's error."""
        variance = max(noise, LEAST_STD) ** 2
        head = variance / self.head.seeds
        total = prior + head + np.diag(variance * self.per_seed)
        total[np.diag_indices_from(total)] += 1e-10 * self.scale**2 + LEAST_STD**2
        return total, head

    def _badness(self, logs: Numbers) -> float:
        """Minus the log posterior of (log std of weights, of biases, of the noise)."""
        weights, biases, noise = np.exp(logs)
        try:
            factor = cho_factor(self._total(self._prior(weights, biases), noise)[0], lower=True)
        except LinAlgError:
            return math.inf
        fit = self.measured @ cho_solve(factor, self.measured) / 2 + np.log(np.diag(factor[0])).sum()
        about = np.log(self.scale)
        fit += ((logs[0] - about) ** 2 + (logs[1] - about) ** 2) / 2 / UNKNOWN_STD**2
        if self.degrees:
            fit += self.degrees * (logs[2] + max(self.spread, LEAST_STD) ** 2 / noise**2 / 2)
        width = UNKNOWN_STD if self.degrees or not math.isfinite(self.sampling_std) else ONE_SEED_STD
        return float(fit + (logs[2] - np.log(self._first_guess())) ** 2 / 2 / width**2)

    def _run_std(self, noise: float) -> float:
        """As the head's spread over seeds shows; the noise and that of sampling are a first guess."""
        first = max(noise, self.sampling_std) if math.isfinite(self.sampling_std) else noise
        if self.head.seeds < 2:
            return first
        degrees = self.head.seeds - 1
        variance = (FIRST_DEGREES * first**2 + degrees * self.head.std**2) / (FIRST_DEGREES + degrees)
        return max(noise, math.sqrt(variance))

    def _growth(self) -> float:
        degrees = self.noise.growth_degrees
        shown = degrees * self.noise.growth**2 if degrees else 0.0
        return math.sqrt((FIRST_DEGREES * FIRST_GROWTH**2 + shown) / (FIRST_DEGREES + degrees))
