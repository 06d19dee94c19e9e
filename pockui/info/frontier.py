"""The forecast against a cost: the best plans, well-known ones, and the current one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from . import format as fmt
from .costs import Cost, Unit

if TYPE_CHECKING:
    from pockgraph.plan import Plan
    from pockgraph.search.plan_search import Budget

    from .measured_points import MeasuredPoint
    from .predictions import Prediction


FAR = 2.5  # so many times further out than all else, a plan would squeeze it, and stands at the edge
ALL_SIDES = [(vertical, side) for vertical in ("top", "bottom") for side in ("right", "left")]
LEAST = 1e-4  # share of their size by which values differ; less would have labels of many digits
# As shares of a chart of common size, of its width and of its height:
LETTER, LINE, POINT = 0.018, 0.07, 0.02
SIDES = {
    "Head": "bottom right", "Preset": "top right", "Best": "top left", "Full": "bottom left",
    "Biases": "bottom right",
}  # fmt: skip


class FrontierPoint(NamedTuple):
    """A plan in the chart.

    Attributes:
        y, low, high: the forecast metric, and its interval.
        place: in the frontier's list of plans, -1 for none of them.
    """

    x: float
    y: float
    low: float
    high: float
    text: str
    place: int


class Mark(NamedTuple):
    """A well-known plan; `side` is where its name stands, empty where there is no room for it."""

    name: str
    x: float
    y: float
    text: str
    side: str


class FrontierInfo(NamedTuple):
    """All in the units of the axes.

    Attributes:
        points: the best plan for each of many budgets, cheapest first.
        steps: (cost, forecast): the best of all shown plans at each cost, to the right end; of those that
            keep to locks and rules, where there are some. free: without these; else empty.
        measured: plans that were trained.
        marks: head, preset, full and the like.
        now: the current plan.
        budget: the limit of this axis, where there is one.
        infeasible_below: what the cheapest plan needs that keeps to locks and rules. infeasible_text: why.
    """

    points: tuple[FrontierPoint, ...]
    steps: tuple[tuple[float, float], ...]
    free: tuple[tuple[float, float], ...]
    measured: tuple[FrontierPoint, ...]
    marks: tuple[Mark, ...]
    now: FrontierPoint | None
    budget: float | None
    infeasible_below: float | None
    infeasible_text: str
    x_title: str
    y_title: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]


def frontier_info(
    plans: Sequence[Plan],
    known_plans: Mapping[str, Prediction],
    now: Prediction | None,
    budget: Budget,
    cost: Cost,
    metric: fmt.MetricScale,
    free: Sequence[Plan] = (),
    measured: Sequence[MeasuredPoint] = (),
) -> FrontierInfo:
    """What the frontier chart shows.

    Args:
        free: the best plans without locks and rules, where `plans` keep to some.
        measured: trained plans.
        plans: with a forecast, and a figure under `cost.key`.
        known_plans: name -> prediction.
        cost: the horizontal axis.
    """
    needs = {name: getattr(p.figures, cost.key) for name, p in known_plans.items()}
    unit = axis_unit(known_plans, cost)
    points = _points(plans, cost, unit, metric)
    without = _points(free, cost, unit, metric)
    trained = [
        FrontierPoint(
            p.x / unit.size, metric.factor * p.y, metric.factor * p.low, metric.factor * p.high, p.text, -1
        )
        for p in measured
    ]
    named = []
    for name, prediction in known_plans.items():
        value = needs[name]
        if value is not None:
            f = prediction.forecast
            text = f"{name}: {_forecast(metric, f.metric, f.low, f.high)} at {cost.text(value)}"
            side = SIDES.get(name, "top right")
            named.append(Mark(name, value / unit.size, metric.factor * f.metric, text, side))
    current = None
    if now is not None and getattr(now.figures, cost.key) is not None:
        value = getattr(now.figures, cost.key)
        f = now.forecast
        text = f"this plan: {_forecast(metric, f.metric, f.low, f.high)} at {cost.text(value)}"
        y, low, high = (metric.factor * height for height in (f.metric, f.low, f.high))
        current = FrontierPoint(value / unit.size, y, low, high, text, -1)
    limit = getattr(budget, cost.key, None)
    others = [m for m in named if m.name in SIDES and m.name != "Full"]  # those that fit in anyway
    own = [*points, *([current] if current else [])]
    shown = [*own, *others, *without]
    low, high = min(p.x for p in shown), max(p.x for p in shown)
    near = [m for m in named if m in others or m.x - low <= FAR * (high - low)]
    shown += [m for m in near if m not in others]
    shown += [p for p in trained if p.x - low <= FAR * (high - low)]
    xs, ys = [p.x for p in shown], [p.y for p in (*shown, *named)]
    ys += [end for p in (*own, *trained) for end in (p.low, p.high)]
    x_range, y_range = _padded(xs, 0.06), _padded(ys, 0.08)
    edge = [
        m._replace(name=f"{m.name}, {cost.text(needs[m.name])} →", x=x_range[1])
        for m in named
        if m not in near
    ]
    best = own if without else [p for p in shown if p not in trained]
    least = min((p.x for p in points), default=min(xs)) if without else min(p.x for p in best)
    return FrontierInfo(
        points=tuple(points),
        steps=_best_at_each_cost(best, x_range[1]),
        free=_best_at_each_cost([*own, *without, *others], x_range[1]) if without else (),
        measured=tuple(p._replace(x=min(p.x, x_range[1])) for p in trained),
        marks=_with_sides((*near, *edge), x_range, y_range, current),
        now=current,
        budget=None if limit is None else limit / unit.size,
        infeasible_below=least,
        infeasible_text=_infeasible_text(cost, unit.size * least, unit.size * min(xs) if without else None),
        x_title=f"{cost.title}, {unit.name}",
        y_title="Forecast, %" if metric.is_share else "Forecast",
        x_range=x_range,
        y_range=y_range,
    )


def _points(plans: Sequence[Plan], cost: Cost, unit: Unit, metric: fmt.MetricScale) -> list[FrontierPoint]:
    """Plans with a forecast, cheapest first."""
    points = []
    for i, plan in enumerate(plans):
        if cost.key not in plan.predicted:
            continue
        value = plan.predicted[cost.key]
        y, low, high = (plan.predicted[key] for key in ("metric", "metric_low", "metric_high"))
        text = f"{_forecast(metric, y, low, high)} at {cost.text(value)}<br>{len(plan.tensors)} tensors; "
        y, low, high = (metric.factor * height for height in (y, low, high))
        points.append(FrontierPoint(value / unit.size, y, low, high, f"{text}click to take it", i))
    return sorted(points, key=lambda p: p.x)


def _infeasible_text(cost: Cost, least: float, without: float | None) -> str:
    """Why there is no plan in the shaded part.

    Args:
        without: the least that a plan needs which keeps to no lock and no rule, where there are some.
    """
    if without is None:
        return f"Shaded: below {cost.text(least)} there is no plan, as training the head alone needs that."
    if least <= without * (1 + 1e-9):
        return f"Shaded: below {cost.text(least)} there is no plan, with or without what is locked."
    return (
        f"Shaded: below {cost.text(least)} no plan keeps to what is locked and asked for; without it, "
        f"{cost.text(without)} is enough."
    )


def axis_unit(known_plans: Mapping[str, Prediction], cost: Cost) -> Unit:
    """The unit of the horizontal axis."""
    needs = (getattr(p.figures, cost.key) for p in known_plans.values())
    return cost.axis(max((need for need in needs if need is not None), default=0))


def _best_at_each_cost(
    plans: Sequence[FrontierPoint | Mark], right: float
) -> tuple[tuple[float, float], ...]:
    """The corners of the staircase above which no plan is known."""
    steps: list[tuple[float, float]] = []
    for plan in sorted(plans, key=lambda p: (p.x, -p.y)):
        if not steps or plan.y > steps[-1][1]:
            steps.append((plan.x, plan.y))
    return (*steps, (right, steps[-1][1])) if steps else ()


def _forecast(metric: fmt.MetricScale, expected: float, low: float, high: float) -> str:
    return f"{metric.level(expected)} ({metric.interval(low, high)})"


def _with_sides(
    marks: Sequence[Mark],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    now: FrontierPoint | None,
) -> tuple[Mark, ...]:
    """Marks with the place of their names: inside the chart, beside the current plan, and over no other name.

    A name that has no such place is left to the pointer.
    """
    taken: list[_Box] = []
    if now is not None:
        x, y = _share(now.x, x_range), _share(now.y, y_range)
        taken.append(_Box(x - POINT, y - POINT, x + POINT, y + POINT))
    placed = []
    for mark in marks:
        sides = sorted(ALL_SIDES, key=lambda side: sum(a != b for a, b in zip(side, mark.side.split())))
        boxes = {side: _box(mark, side, x_range, y_range) for side in sides}
        side = next((s for s in sides if boxes[s].is_inside and not any(map(boxes[s].overlaps, taken))), None)
        if side is not None:
            taken.append(boxes[side])
        placed.append(mark._replace(side=" ".join(side or ())))
    return tuple(placed)


class _Box(NamedTuple):
    """A part of the chart, as shares of its width and height."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def is_inside(self) -> bool:
        return self.left >= 0 and self.right <= 1

    def overlaps(self, other: _Box) -> bool:
        beside = self.right <= other.left or other.right <= self.left
        return not (beside or self.top <= other.bottom or other.top <= self.bottom)


def _box(
    mark: Mark, side: tuple[str, str], x_range: tuple[float, float], y_range: tuple[float, float]
) -> _Box:
    """Where a name is written, about."""
    x, y = _share(mark.x, x_range), _share(mark.y, y_range)
    width = LETTER * (len(mark.name) + 1)
    left = x + POINT if side[1] == "right" else x - POINT - width
    bottom = y + POINT if side[0] == "top" else y - POINT - LINE
    return _Box(left, bottom, left + width, bottom + LINE)


def _share(value: float, ends: tuple[float, float]) -> float:
    return (value - ends[0]) / (ends[1] - ends[0])


def _padded(values: Sequence[float], share: float) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    size = max(abs(low), abs(high))
    pad = share * (high - low if high - low > LEAST * size else size) or 1.0
    return low - pad, high + pad
