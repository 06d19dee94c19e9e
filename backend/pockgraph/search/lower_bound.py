"""The plan of the largest lower bound: gains that are well known count more than gains that are large.

With scores of mean m and standard deviation s that err independently of each other, the lower bound of a plan
is sum(m) - z sqrt(sum(s²)). That is no sum over tensors, but it is convex in (sum(m), sum(s²)), so that its
maximum lies where some sum of m - price · s² has its own: a search like any other, for each of a few prices.
Between two plans found, the price at which they are worth the same leads to a plan between them, or shows
that there is none; stretches that cannot hold the maximum are left out. The result is exact.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from ..contribution import Contribution, Gain
from ..contribution.forecast import Forecaster
from ..plan import Budget, Plan
from ..profile import Figures, Profile
from .constraints import Constraints
from .integer_program import IntegerProgram

Z = 1.645  # a normal variable lies above mean - Z std in 19 cases of 20
SAME = 1e-9  # relative difference of what counts as equal


class _Found(NamedTuple):
    """A plan, with the sum of its scores and of their variances."""

    score: float
    variance: float
    ratios: dict[str, float]
    figures: Figures

    def bound(self) -> float:
        return self.score - Z * math.sqrt(max(self.variance, 0.0))


def best_lower_bound(profile: Profile, forecaster: Forecaster, asked: Constraints, budget: Budget) -> Plan:
    """The plan of the largest lower bound of its score.

    Raises:
        BudgetError: no plan fits.
    """
    start = time.perf_counter()
    scores = forecaster.scores
    variances = _mapped(scores, lambda gain: gain.std**2)

    def at(price: float) -> _Found:
        priced = _mapped(scores, lambda gain: gain.mean - price * gain.std**2)
        ratios, figures = IntegerProgram(profile, priced, asked).optimum(budget)
        return _Found(scores.predicted_gain(ratios), variances.predicted_gain(ratios), ratios, figures)

    gains = [gain for table in (*scores.weights.values(), scores.biases) for gain in table.values()]
    prices = [gain.mean / gain.std**2 for gain in gains if gain.std > 0]
    # At the second price nothing uncertain pays.
    ends = at(0.0), at(2 * max(prices, default=0.0) + 1.0)
    best = max(ends, key=_Found.bound)
    stretches = [ends]
    while stretches:
        high, low = stretches.pop()
        if high.variance <= low.variance * (1 + SAME):
            continue
        price = (high.score - low.score) / (high.variance - low.variance)
        found = at(price)
        best = max(best, found, key=_Found.bound)
        more = found.score - high.score - price * (found.variance - high.variance)
        if more <= SAME * max(abs(found.score), abs(high.score)):
            continue
        for stretch, end in (((high, found), high), ((found, low), low)):
            # No plan lies above the line, and along it the bound is convex: largest at an end.
            most = (
                found.score + price * (end.variance - found.variance) - Z * math.sqrt(max(end.variance, 0.0))
            )
            if most > best.bound() + SAME * abs(best.bound()):
                stretches.append(stretch)
    solve_ms = (time.perf_counter() - start) * 1e3
    program = IntegerProgram(profile, forecaster, asked)
    return program.plan(best.ratios, best.figures, budget, "search of the largest lower bound", solve_ms)


def _mapped(table: Contribution, value: Callable[[Gain], float]) -> Contribution:
    def changed(gain: Gain) -> Gain:
        return replace(gain, mean=value(gain))

    weights = {fqn: {r: changed(g) for r, g in gains.items()} for fqn, gains in table.weights.items()}
    return replace(table, weights=weights, biases={k: changed(g) for k, g in table.biases.items()})
