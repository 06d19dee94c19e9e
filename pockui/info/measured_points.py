"""Plans that were trained as the analysis trains: what stands beside forecasts in the frontier's chart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from . import format as fmt
from .costs import Cost
from .gains import HALF_STDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pockgraph.contribution.forecast import Forecaster
    from pockgraph.profile import Profile
    from pockgraph.study.trained_plans import TrainedAlike


class MeasuredPoint(NamedTuple):
    """A trained plan: its cost, the mean metric of its trainings, and the interval around it.

    Attributes:
        x: in the cost's own unit, such as bytes.
        y, low, high: of the metric; an interval that holds, with `INTERVAL_COVERAGE`, what infinitely many
            trainings would reach on average.
    """

    x: float
    y: float
    low: float
    high: float
    text: str


def measured_points(
    trained: Sequence[TrainedAlike],
    forecaster: Forecaster,
    profile: Profile,
    cost: Cost,
    metric: fmt.MetricScale,
) -> tuple[MeasuredPoint, ...]:
    """The plans that a study has trained, over a cost.

    The interval's width is the spread of one training's metric, which the whole analysis tells, over the root
    of the number of trainings: one alone has an interval, too.
    """
    found = []
    least, most = forecaster.bounds
    for plan in trained:
        value = getattr(profile.figures(plan.ratios), cost.key)
        if value is None:
            continue
        count = len(plan.metrics)
        mean, half = sum(plan.metrics) / count, HALF_STDS * forecaster.run_std / math.sqrt(count)
        ends = metric.interval(min(plan.metrics), max(plan.metrics))
        now = forecaster.forecast(plan.ratios)
        said = "<br>".join([
            f"measured: {metric.level(mean)} ± {metric.factor * half:.3g} at {cost.text(value)}",
            "trained once" if count == 1 else f"trained {count} times: {ends}",
            f"forecast now: {metric.level(now.metric)} ({metric.interval(now.low, now.high)})",
        ])  # fmt: skip
        found.append(MeasuredPoint(value, mean, max(mean - half, least), min(mean + half, most), said))
    return tuple(found)
