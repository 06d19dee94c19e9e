"""How one tensor's gain, and the whole plan's cost, depend on its trained share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from . import format as fmt
from .costs import Cost
from .gains import HALF_STDS, interval, seeds_text
from .layers import BIASES, LayerRow, chosen, gains_of

if TYPE_CHECKING:
    from pockgraph.contribution import Contribution, Gain
    from pockgraph.profile import Profile
    from pockgraph.search.plan_search import Budget

SHARES = (0.0, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1.0)


class GainPoint(NamedTuple):
    percent: float
    gain: float
    half: float  # half the interval that holds the true gain with `INTERVAL_COVERAGE`; 0 for a measured one
    text: str


class GainCurve(NamedTuple):
    """Gain, in the metric's unit, against the trained share in percent.

    Attributes:
        points: estimated from all that was measured and trained. measured: as it was, noise included.
    """

    points: tuple[GainPoint, ...]
    measured: tuple[GainPoint, ...]
    now_percent: float
    title: str
    share_title: str


class CostPoint(NamedTuple):
    percent: float
    cost: float
    text: str


class CostCurve(NamedTuple):
    """The plan's cost, in the axis' unit, against one tensor's share in percent."""

    points: tuple[CostPoint, ...]
    now_percent: float
    budget: float | None
    title: str
    share_title: str


def share_title(row: LayerRow) -> str:
    return f"Share of the {row.steps} biases, last first" if row.kind == BIASES else "Trained share"


def gain_curve(row: LayerRow, estimated: Contribution, now: float, metric: fmt.MetricScale) -> GainCurve:
    """The gains of a row, estimated and as they were measured; nothing is gained at 0.

    Args:
        estimated: `Forecaster.gains`.
        now: the share in the current plan.
    """

    def point(share: float, gain: Gain, half: float, said: str) -> GainPoint:
        where = f"{round(share * row.steps)} biases" if row.kind == BIASES else fmt.percent(share)
        return GainPoint(100 * share, metric.factor * gain.mean, half, f"{where}: {said}")

    points, measured = [GainPoint(0.0, 0.0, 0.0, "frozen: no gain")], []
    for share, gain in sorted(gains_of(row.id, estimated).items()):
        half = metric.factor * HALF_STDS * gain.std
        points.append(point(share, gain, half, f"{metric.gain(gain.mean)} ± {half:.2f}, estimated"))
    for share, gain in sorted(row.gains.items()):
        known = interval(gain)
        spread = f" ± {metric.factor * (known.high - gain.mean):.2f}" if known else ""
        said = f"{metric.gain(gain.mean)}{spread}, measured<br>{seeds_text(gain)}"
        measured.append(point(share, gain, 0.0, said))
    unit = f", {metric.unit}" if metric.unit else ""
    return GainCurve(tuple(points), tuple(measured), 100 * now, f"Gain{unit}", share_title(row))


def cost_curve(
    profile: Profile,
    contribution: Contribution,
    choice: Mapping[str, float],
    row: LayerRow,
    now: float,
    cost: Cost,
    budget: Budget,
) -> CostCurve:
    """The cost of the current plan if one row's share were another, at up to nine shares."""
    found = []
    for share in SHARES if row.steps > 1 else (0.0, 1.0):
        changed = {**choice, **chosen(row.id, share, contribution)}
        value = getattr(profile.figures({k: v for k, v in changed.items() if v}), cost.key)
        if value is not None:
            found.append((share, value))
    limit = getattr(budget, cost.key, None)
    unit = cost.axis(max((value for _, value in found), default=0))
    return CostCurve(
        tuple(
            CostPoint(100 * share, value / unit.size, f"{fmt.percent(share)}: {cost.text(value)} in all")
            for share, value in found
        ),
        100 * now,
        None if limit is None else limit / unit.size,
        f"{cost.title} of the plan, {unit.name}",
        share_title(row),
    )
