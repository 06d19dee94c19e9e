"""Scores of single tensors from all that is known: measured gains, and plans that were trained.

A tensor may be worth more or less in the company of others than alone: all of them by a factor that is
common to them, and each by itself. How much is not measured, but trained plans tell: the most probable
scores are those that explain measured gains and trained plans together, each by how certain it is. So a
plan that reached less than expected lowers the scores of the tensors that it trained, and every forecast
that counts on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from .saturating_link import Link
from .shrinkage import Items, Shrunk

Numbers = NDArray[np.floating[Any]]

# Of the variance by which plans stray from their tensors' gains alone:
COMMON = 0.5  # that of a factor common to all tensors
EACH = 0.25  # that of each tensor by itself; what is left is every plan's own
OTHER_SCALE = 0.5  # std of how much more plans gain where they were trained otherwise, as a share
OTHER_STRAY = 0.25  # and of what differs from plan to plan there
ROUNDS = 8  # of linearising the link anew
SMALLEST_STEP = 1 / 16


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


class Estimate(NamedTuple):
    """What is known of the scores if the link, and how far plans stray, are these.

    Attributes:
        scores: [n] of the items. head_error: how much better the head alone was measured than it is.
        covariance: [n + 1, n + 1], of those.
        stray: std of a plan's gain around the link, as a share.
        log_likelihood: of the trained plans.
    """

    link: Link
    scores: Numbers
    head_error: float
    covariance: Numbers
    stray: float
    log_likelihood: float

    def moments(self, parts: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """[p] each: of plans, the expected gain, its variance, and the mean slope of the link."""
        std = np.sqrt(np.maximum(variances(parts, self.covariance), 0))
        return self.link.moments(parts @ self.scores, std)


class JointEstimates:
    """Estimates from one table and its trained plans, for any link and stray."""

    def __init__(self, items: Items, shrunk: Shrunk, trained: Sequence[TrainedPlan]) -> None:
        self._items, self._shrunk, self._trained = items, shrunk, trained
        n = len(items.gains)
        self._parts = np.array([items.parts(p.ratios) for p in trained]).reshape(len(trained), n)
        self._gains = np.array([p.gain for p in trained])
        groups = [*items.weights.values(), items.biases]
        self._same_tensor = np.zeros((n, n))
        for places in groups:
            at = [position for _, position in places]
            self._same_tensor[np.ix_(at, at)] = 1.0

    def of(self, link: Link, stray: float) -> Estimate:
        """The most probable scores, and what is not known of them."""
        n = len(self._items.gains)
        scores = link.score(self._shrunk.mean[:n])
        scale = np.append(1 / np.maximum(link.slope(scores), 1e-3), 1.0)
        alone = self._shrunk.covariance * np.outer(scale, scale)
        prior = Estimate(link, scores, float(self._shrunk.mean[-1]), alone, stray, 0.0)
        if not self._trained:
            return prior
        covariance = alone.copy()
        covariance[:n, :n] += self._in_company(scores, stray)
        return self._updated(prior._replace(covariance=covariance))

    def own_stray_std(self, estimate: Estimate, parts: Numbers) -> Numbers:
        """[p]: how far plans stray by what is their own; nothing where one tensor is trained."""
        of_each = parts * np.abs(estimate.scores)
        beside = of_each.sum(1) - of_each.max(1, initial=0.0)
        share = 1.0 - COMMON - EACH if self._trained else 1.0
        return estimate.stray * np.sqrt(share) * estimate.link.gain(beside)

    def _in_company(self, scores: Numbers, stray: float) -> Numbers:
        """[n, n]: covariance of what tensors are worth more in company than alone."""
        size = np.abs(scores)
        whole = best_of_each(self._items, size) @ size
        each = self._same_tensor * np.sqrt(np.outer(size, size)) * whole
        return stray**2 * (COMMON * np.outer(scores, scores) + EACH * each)

    def _updated(self, prior: Estimate) -> Estimate:
        """With the trained plans: the most probable values by Gauss-Newton steps, and Laplace's evidence.

        Values are sought as prior + covariance @ u, so that no covariance need be inverted.
        """
        n = len(self._items.gains)
        covariance, first = prior.covariance, np.append(prior.scores, prior.head_error)
        noise = self._noise(prior)
        of_noise = cho_factor(noise, lower=True)
        std = np.sqrt(np.maximum(variances(self._parts, covariance), 0))
        same_head = np.array([p.same_head for p in self._trained])

        def at(u: Numbers) -> tuple[float, Numbers, Numbers]:
            """(minus the log posterior, what is not explained [m], derivatives [m, n + 1])."""
            values = first + covariance @ u
            expected, _, slopes = prior.link.moments(self._parts @ values[:n], std)
            left = self._gains - (expected - same_head * values[n])
            badness = (u @ covariance @ u + left @ cho_solve(of_noise, left)) / 2
            return float(badness), left, np.hstack([slopes[:, None] * self._parts, -same_head[:, None]])

        u = np.zeros(n + 1)
        badness, left, derivatives = at(u)
        for _ in range(ROUNDS):
            total = cho_factor(derivatives @ covariance @ derivatives.T + noise, lower=True)
            target = derivatives.T @ cho_solve(total, left + derivatives @ covariance @ u)
            step, before = 1.0, badness
            while step >= SMALLEST_STEP:
                moved = u + step * (target - u)
                tried = at(moved)
                if tried[0] < badness:
                    u, (badness, left, derivatives) = moved, tried
                    break
                step /= 2
            if before - badness < 1e-3:
                break
        reach = covariance @ derivatives.T
        total = cho_factor(derivatives @ reach + noise, lower=True)
        values = first + covariance @ u
        evidence = -badness - np.log(np.diag(total[0])).sum()
        known = covariance - reach @ cho_solve(total, reach.T)
        return prior._replace(
            scores=values[:n], head_error=float(values[n]), covariance=(known + known.T) / 2,
            log_likelihood=float(evidence),
        )  # fmt: skip

    def _noise(self, prior: Estimate) -> Numbers:
        """[m, m]: covariance of what the scores do not explain of the trained plans' gains."""
        expected = prior.moments(self._parts)[0]
        shrunk = self._shrunk
        total = np.diag(self.own_stray_std(prior, self._parts) ** 2)
        for i, one in enumerate(self._trained):
            own_head = 1 - one.same_head
            alone = shrunk.noise_std**2 * (1 + own_head) + (shrunk.growth * expected[i]) ** 2
            total[i, i] += alone / one.trainings
            if one.conditions:
                total[i, i] += (OTHER_STRAY * expected[i]) ** 2
            for j, other in enumerate(self._trained):
                if one.conditions and one.conditions == other.conditions:
                    total[i, j] += OTHER_SCALE**2 * expected[i] * expected[j]
        total[np.diag_indices_from(total)] += 1e-12 + 1e-9 * np.diag(total)
        return total


def best_of_each(items: Items, values: Numbers) -> Numbers:
    """[n]: the parts of the plan that trains each tensor, and the last biases, where its value is largest.

    What has no value above 0 is not trained.
    """
    parts = np.zeros(len(items.gains))
    for places in (*items.weights.values(), items.biases):
        at = max((position for _, position in places), key=lambda p: values[p], default=None)
        if at is not None and values[at] > 0:
            parts[at] = 1.0
    return parts


def variances(parts: Numbers, covariance: Numbers) -> Numbers:
    """[p]: of the sums of those parts of the items."""
    used = np.flatnonzero(parts.any(0))
    return ((parts[:, used] @ covariance[np.ix_(used, used)]) * parts[:, used]).sum(1)
