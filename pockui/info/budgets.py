"""The ends of the budget sliders, and their marks: what well-known plans need."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pockgraph.errors import BudgetError, suggest

from .costs import COSTS, Unit

if TYPE_CHECKING:
    from .predictions import Prediction

MARK_HELP = {
    "Head": "Only the last layer learns.",
    "Preset": "The scheme that the PockEngine paper reports for this kind of network.",
    "Best": "The best forecast there is, without a limit.",
    "Full": "Every tensor learns.",
}


BYTES = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
    "TiB": 2**40,
}  # fmt: skip
TIMES = {"µs": 1e-3, "us": 1e-3, "ms": 1.0, "s": 1e3}
EXAMPLES = {True: ("22 MB", "16 MiB", "50 % of full"), False: ("12 ms", "0.5 s", "50 % of full")}
TYPED = re.compile(r"(?P<number>[-+]?[\d.,]+(e[-+]?\d+)?)\s*(?P<unit>[^\d\s]*)(\s+of\s+full)?", re.IGNORECASE)
THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")


class BudgetRange(NamedTuple):
    """A budget slider, in the unit of its cost.

    Attributes:
        unit: of all figures here.
        start, end: of the track; the end means no limit.
        floor: what the cheapest plan, the head alone, needs.
        marks: what well-known plans need: name, value, help.
        full: what training everything needs.
    """

    unit: Unit
    start: float
    end: float
    floor: float
    marks: tuple[Mapping[str, Any], ...]
    full: float


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
    return BudgetRange(
        unit, max(0.0, floor - 0.12 * room), top + 0.06 * room, floor, shown, needs["Full"] / unit.size
    )


def to_limit(key: str, value: float | None, unit: Unit) -> float | None:
    """A slider's figure as a `Budget` limit. Bytes are whole, so that a mark's own need is met exactly."""
    if value is None:
        return None
    limit = value * unit.size
    return round(limit) if key.endswith("bytes") else limit


def typed_limit(key: str, text: str, range: BudgetRange) -> float | None:
    """A limit as people type it; None for no limit, which is what nothing means, and more than the track has.

    Args:
        key: of the cost, `…_bytes` or `…_ms`.
        text: a number, with a unit or in the one that the bar shows, or a share of full training.

    Raises:
        BudgetError: it is none, in words.
    """
    text = text.strip()
    if text.lower() in ("", "no limit", "none"):
        return None
    in_bytes = key.endswith("bytes")
    units, what = (BYTES, "memory") if in_bytes else (TIMES, "time")
    first, *others = EXAMPLES[in_bytes]
    how = f"Write it as {first}, {others[0]} or {others[1]}; nothing means no limit."
    found = TYPED.fullmatch(text)
    number = math.nan if found is None else _number(found["number"])
    if found is None or math.isnan(number):
        raise BudgetError(f"{text[:40]!r} is no amount of {what}. {how}")
    if not 0 < number < math.inf:
        raise BudgetError(f"{text[:40]!r} is no limit: it must be above 0. {how}")
    by_name = {name.lower(): size for name, size in units.items()}
    unit = found["unit"]
    if unit == "%":
        value = number / 100 * range.full
    elif not unit:
        value = number
    elif unit.lower() in by_name:
        value = number * by_name[unit.lower()] / range.unit.size
    else:
        near = suggest(unit, list(units))
        raise BudgetError(f"{unit!r} is no unit of {what}: those are {', '.join(units)} and %.{near} {how}")
    return None if value >= range.end else to_limit(key, value, range.unit)


def _number(text: str) -> float:
    """1,234.5 and 22,5 as people write them; NaN if it is none."""
    try:
        return float(text.replace(",", "") if THOUSANDS.fullmatch(text) else text.replace(",", "."))
    except ValueError:
        return math.nan
