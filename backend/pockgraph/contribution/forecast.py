"""What metric a plan will reach: a forecast with its interval, from measured gains and from trained plans.

The measured gains of single tensors are first shrunk (`shrinkage.py`); a saturating link (`link.py`) turns
their sum into the gain of a plan. How much there is to gain, and how far plans stray from the link, is not
known beforehand: it is averaged over a grid, by a prior and by how well each value explains the plans that
were trained. A trained plan also moves the estimates of the tensors that it trains, and the forecasts of
plans that are like it (a Gaussian process over plans).

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
from scipy.linalg import cho_factor, cho_solve
from scipy.special import ndtr, ndtri

from .gains import Contribution, Gain
from .link import Link
from .shrinkage import Items, shrink

Numbers = NDArray[np.floating[Any]]

LEVEL = 0.9  # of every interval
SHARES = np.linspace(0.1, 1.0, 10)  # of the room up to the metric's maximum that plans may gain at most
MULTIPLES = np.geomspace(1.1, 30.0, 10)  # the same, in units of the largest gain, where there is no maximum
STRAYS = (0.1, 0.2, 0.4)  # std of a plan's gain around the link, as a share of what its tensors add together
STRAY_WEIGHTS = (0.25, 0.5, 0.25)
OTHER_SCALE = 0.5  # std of how much more plans gain where they were trained otherwise, as a share
OTHER_STRAY = 0.25  # and of what differs from plan to plan there
NEAREST = 40  # steps of the bisection for a quantile


@dataclass(frozen=True)
class Forecast:
    """What one training of a plan is expected to reach, as the analysis trains and judges.

    Attributes:
        metric: expected validation metric. low, high: of the interval that holds it in 9 trainings of 10.
        gain: expected gain over the head alone. gain_low, gain_high: likewise, by the same seed.
        score: what a search maximises: gains as far as they add up, before they saturate.
    """

    metric: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float
    score: float

    @property
    def figures(self) -> dict[str, float]:
        """As a plan's `predicted` holds them."""
        return {
            "gain": self.gain, "gain_low": self.gain_low, "gain_high": self.gain_high, "metric": self.metric,
            "metric_low": self.low, "metric_high": self.high, "score": self.score,
        }  # fmt: skip


@dataclass(frozen=True)
class TrainedPlan:
    """A plan that was trained, and what it gained over the head alone.

    Attributes:
        ratios: FQN -> trained ratio.
        gain: mean over trainings of the metric minus that of the head alone.
        trainings: how many, each with another seed.
        same_head: share of them whose head alone is one that the contribution counts.
        conditions: empty where it was trained as the analysis trains; else a name that plans share which
            were trained alike: their gains say less, as all of them may be larger or smaller.
    """

    ratios: Mapping[str, float]
    gain: float
    trainings: int = 1
    same_head: float = 1.0
    conditions: str = ""


class _Member(NamedTuple):
    """One value of what is not known, with what follows from it.

    Attributes:
        weight: how probable.
        scores: [n] of the items. covariance: [n + 1, n + 1], of those and of the head's error.
        stray: std of a plan's gain around the link, as a share.
        residuals: [m]: of the trained plans, divided by their covariance.
        factor: of that covariance.
        reach: [n + 1, m]: covariance of the items with the trained plans.
    """

    weight: float
    link: Link
    stray: float
    scores: Numbers
    covariance: Numbers
    residuals: Numbers
    factor: Any
    reach: Numbers


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
        known = contribution.noise is not None and contribution.noise.samples is not None
        self.bounds = (0.0, 1.0) if known else (-math.inf, math.inf)
        self._parts = np.array([self._items.parts(p.ratios) for p in self.trained])
        self._parts = self._parts.reshape(len(self.trained), len(self._items.gains))
        self._gains = np.array([p.gain for p in self.trained])

    # ------------------------------------------------------------------ asked for

    def forecast(self, ratios: Mapping[str, float]) -> Forecast:
        """Of the plan that trains these ratios beside the head.

        Args:
            ratios: FQN -> trained ratio.
        """
        parts = self._items.parts(ratios)[None]
        means, gain_stds, metrics, metric_stds = (
            np.array(values) for values in zip(*(self._predict(m, parts) for m in self._members), strict=True)
        )
        weights = np.array([m.weight for m in self._members])
        head, (least, most) = self.contribution.baseline.mean, self.bounds
        gain = (weights @ means, *(_quantile(level, means, gain_stds, weights) for level in TAILS))
        metric = (weights @ metrics, *(_quantile(level, metrics, metric_stds, weights) for level in TAILS))
        gain, gain_low, gain_high = (float(np.clip(g, least - head, most - head)) for g in gain)
        metric, low, high = (float(np.clip(m, least, most)) for m in metric)
        return Forecast(
            metric=metric, low=low, high=high, gain=gain, gain_low=gain_low, gain_high=gain_high,
            score=self.scores.predicted_gain(ratios),
        )  # fmt: skip

    @functools.cached_property
    def scores(self) -> Contribution:
        """The table in units of the score, which adds up: its largest sum is the largest forecast.

        Each gain's `std` is what is not known of it, whatever the number of its seeds.
        """
        return self._estimated(lambda _, score, variance: (score, variance))

    @functools.cached_property
    def gains(self) -> Contribution:
        """The table with each gain as it is estimated from all that was measured and trained.

        Each gain's `std` is what is not known of it, whatever the number of its seeds.
        """

        def of_score(member: _Member, score: Numbers, variance: Numbers) -> tuple[Numbers, Numbers]:
            gain, spread, _ = member.link.moments(score, np.sqrt(variance))
            return gain, spread

        return self._estimated(of_score)

    def _estimated(
        self, of_score: Callable[[_Member, Numbers, Numbers], tuple[Numbers, Numbers]]
    ) -> Contribution:
        """The table of what `of_score` makes of each item's score and of its variance."""
        n = len(self._items.gains)
        mean, second = np.zeros(n), np.zeros(n)
        for member in self._members:
            moved = member.scores + member.reach[:n] @ member.residuals
            known = member.reach[:n] @ cho_solve(member.factor, member.reach[:n].T) if self.trained else 0.0
            variance = np.diag(member.covariance)[:n] - np.diag(np.zeros((n, n)) + known)
            value, spread = of_score(member, moved, np.maximum(variance, 0))
            mean += member.weight * value
            second += member.weight * (spread + value**2)
        std = np.sqrt(np.maximum(second - mean**2, 0))
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
        members, logs = [], []
        for link, log_prior in self._links():
            for stray, weight in zip(STRAYS, STRAY_WEIGHTS, strict=True):
                member, log_likelihood = self._explain(link, stray)
                members.append(member)
                logs.append(log_prior + math.log(weight) + log_likelihood)
        weights = np.exp(np.array(logs) - max(logs))
        weights /= weights.sum()
        kept = weights > 1e-4
        return [
            m._replace(weight=float(w / weights[kept].sum()))
            for m, w, k in zip(members, weights, kept, strict=True)
            if k
        ]

    def _links(self) -> list[tuple[Link, float]]:
        """Links with the logarithm of their prior: how likely it is that all gains keep to the headroom."""
        n = len(self._items.gains)
        mean = self._shrunk.mean[:n]
        std = np.sqrt(np.diag(self._shrunk.covariance)[:n]) + 1e-12
        head = self.contribution.baseline.mean
        if math.isfinite(self.bounds[1]):
            room = max(self.bounds[1] - head, 1e-6)
            down = max(head - self.bounds[0], 1e-6)
            links = [Link(share * room, down) for share in SHARES]
        else:
            largest = max(float(np.max(np.abs(mean), initial=0.0)), self._shrunk.noise_std, 1e-9)
            links = [Link(multiple * largest) for multiple in MULTIPLES]
        found = []
        for link in links:
            keeps = np.log(np.maximum(ndtr((link.up - mean) / std), 1e-12))
            found.append((link, float(np.min(keeps, initial=0.0))))
        return found

    def _explain(self, link: Link, stray: float) -> tuple[_Member, float]:
        """A member, and the log likelihood of the trained plans in it."""
        n, m = len(self._items.gains), len(self.trained)
        gains = self._shrunk.mean[:n]
        scores = link.score(gains)
        scale = np.append(1 / np.maximum(link.slope(scores), 1e-3), 1.0)
        covariance = self._shrunk.covariance * np.outer(scale, scale)
        member = _Member(0.0, link, stray, scores, covariance, np.zeros(0), None, np.zeros((n + 1, 0)))
        if not m:
            return member, 0.0
        expected, added, slopes = self._added(member, self._parts)
        derivatives = self._derivatives(self._parts, slopes)
        reach = covariance @ derivatives.T
        total = derivatives @ reach + np.diag(added) + self._strays(member, self._parts, self._parts)
        noise = self._shrunk.noise_std**2
        for i, one in enumerate(self.trained):
            own_head = 1 - one.same_head
            total[i, i] += (noise * (1 + own_head) + (self._shrunk.growth * expected[i]) ** 2) / one.trainings
            if one.conditions:
                total[i, i] += (OTHER_STRAY * expected[i]) ** 2
            for j, other in enumerate(self.trained):
                if one.conditions and one.conditions == other.conditions:
                    total[i, j] += OTHER_SCALE**2 * expected[i] * expected[j]
        total[np.diag_indices(m)] += 1e-12 + 1e-9 * np.diag(total)
        factor = cho_factor(total, lower=True)
        error = self._gains - expected
        residuals = cho_solve(factor, error)
        likelihood = -error @ residuals / 2 - np.log(np.diag(factor[0])).sum()
        return member._replace(residuals=residuals, factor=factor, reach=reach), float(likelihood)

    def _derivatives(self, parts: Numbers, slopes: Numbers) -> Numbers:
        """[m, n + 1]: of the gains of the trained plans; the head's error counts against them."""
        return np.hstack([slopes[:, None] * parts, np.array([[-p.same_head] for p in self.trained])])

    def _added(self, member: _Member, parts: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Expected gains, the variance that the slope does not account for, and the slopes."""
        std = np.sqrt(np.maximum(_variances(parts, member.covariance), 0))
        expected, spread, slopes = member.link.moments(parts @ member.scores, std)
        return expected, np.maximum(spread - slopes**2 * std**2, 0), slopes

    def _strays(self, member: _Member, a: Numbers, b: Numbers) -> Numbers:
        """[p, q]: covariance of how far plans stray from the link; more where they train the same."""
        size = np.abs(member.scores)

        def stds(parts: Numbers) -> Numbers:
            of_each = parts * size
            beside = of_each.sum(1) - of_each.max(1, initial=0.0)
            return member.stray * member.link.gain(beside)

        less = np.minimum(a[:, None], b[None]) @ size
        more = np.maximum(a[:, None], b[None]) @ size
        alike = np.where(more > 0, less / np.where(more > 0, more, 1.0), 1.0)
        return alike * np.outer(stds(a), stds(b))

    def _predict(self, member: _Member, parts: Numbers) -> tuple[float, float, float, float]:
        """Mean and standard deviation of the gain, and of the metric, of one training of a plan."""
        expected, added, slopes = self._added(member, parts)
        head, noise = self.contribution.baseline.mean, self._shrunk.noise_std
        used, slope = np.flatnonzero(parts[0]), slopes[0]
        part = slope * parts[0, used]
        gain = slope**2 * _variances(parts, member.covariance)[0]
        # The gain counts from the true head, the metric from the measured one less its error.
        metric = gain - 2 * part @ member.covariance[used, -1] + member.covariance[-1, -1]
        variances = np.array([gain, metric]) + self._strays(member, parts, parts)[0, 0] + added[0]
        means = np.array([expected[0], head + expected[0] - self._shrunk.mean[-1]])
        if self.trained:
            moved = part @ member.reach[used] + self._strays(member, parts, self._parts)[0]
            shared = np.array([moved, moved - member.reach[-1]])
            means = means + shared @ member.residuals
            variances = variances - (shared.T * cho_solve(member.factor, shared.T)).sum(0)
        # Of this training, and of those on average that the gains were measured in.
        growth = (self._shrunk.growth * means[0]) ** 2 * (1 + 1 / self.contribution.baseline.seeds)
        stds = np.sqrt(np.maximum(variances, 0) + growth + np.array([2 * noise**2, self._shrunk.run_std**2]))
        return float(means[0]), float(stds[0]), float(means[1]), float(stds[1])


def _variances(parts: Numbers, covariance: Numbers) -> Numbers:
    """[p]: of the sums of those parts of the items."""
    used = np.flatnonzero(parts.any(0))
    return ((parts[:, used] @ covariance[np.ix_(used, used)]) * parts[:, used]).sum(1)


TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


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
