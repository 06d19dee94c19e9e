"""The ends of the budget sliders, and their marks: what well-known plans need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from .costs import COSTS, Unit

if TYPE_CHECKING:
    from .predictions import Prediction

MARK_HELP = {
    "Head": "Only the last layer learns.",
    "Preset": "The scheme that the PockEngine paper reports for this kind of network.",
    "Best": "The best forecast there is, without a limit.",
    "Full": "Every tensor learns.",
}


class BudgetRange(NamedTuple):
    """A budget slider, in the unit of its cost.

    Attributes:
        unit: of all figures here.
        start, end: of the track; the end means no limit.
        floor: what the cheapest plan, the head alone, needs.
        marks: what well-known plans need: name, value, help.
    """

    unit: Unit
    start: float
    end: float
    floor: float
    marks: tuple[Mapping[str, Any], ...]


def budget_range(key: str, known_plans: Mapping[str, Prediction]) -> BudgetRange | None:
    """The slider for a cost; None while the cost is unknown."""
    needs = {name: getattr(p.figures, key) for name, p in known_plans.items()}
    if any(v is None for v in needs.values()):
        return None
    unit = COSTS[key].axis(needs["Head"])
    # More than the best plan needs makes no difference: the track ends a little beyond it.
    top = max(v for n, v in needs.items() if n != "Full")
    if top < 1.05 * needs["Head"]:
        top = needs["Full"]
    floor, top = needs["Head"] / unit.size, top / unit.size
    room = top - floor
    shown = tuple({"name": n, "value": v / unit.size, "help": MARK_HELP.get(n, "")} for n, v in needs.items())
    return BudgetRange(unit, max(0.0, floor - 0.12 * room), top + 0.06 * room, floor, shown)


def to_limit(key: str, value: float | None, unit: Unit) -> float | None:
    """A slider's figure as a `Budget` limit. Bytes are whole, so that a mark's own need is met exactly."""
    if value is None:
        return None
    limit = value * unit.size
    return round(limit) if key.endswith("bytes") else limit
