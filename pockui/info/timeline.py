"""What is alive over a training step: bytes by kind, beside other plans, and where the peak is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .costs import COSTS, Unit
from .live_values import moment_name

if TYPE_CHECKING:
    from pockgraph.profile import Profile
    from pockgraph.profile.step_memory import StepMemory

PARTS = 200  # of the step's operators; of each, the highest moment is drawn
NEAR_PERCENT = 0.5  # a place in the step means the highest moment this near to it


class TimelinePoint(NamedTuple):
    """`x` is the operator's place in the whole training graph, in percent; `y` what is alive, in the axis'
    unit."""

    x: float
    y: float
    text: str


class Line(NamedTuple):
    """Another plan's step."""

    name: str
    points: tuple[TimelinePoint, ...]


class Timeline(NamedTuple):
    """A step of the plan, beside those of other plans.

    Attributes:
        moments: which moments of the step are drawn.
        kinds: name -> bytes at each of `moments`, in the axis' unit; they add up to `points`.
        points: all that is alive.
        others: steps of other plans. Operators that a plan has not leave their place empty.
        forward_ends: where the forward pass ends, in percent.
        peak: where most is alive.
        unit: of the axis.
    """

    moments: tuple[int, ...]
    kinds: Mapping[str, tuple[float, ...]]
    points: tuple[TimelinePoint, ...]
    others: tuple[Line, ...]
    forward_ends: float
    peak: TimelinePoint
    unit: Unit


def timeline(profile: Profile, memory: StepMemory, others: Mapping[str, StepMemory]) -> Timeline:
    """Args:
    memory: of the plan.
    others: by name.
    """
    cost = COSTS["peak_bytes"]
    unit = cost.axis(max(m.peak_bytes for m in (memory, *others.values())))
    count = len(profile.operators)

    def points(of: StepMemory, moments: tuple[int, ...]) -> tuple[TimelinePoint, ...]:
        return tuple(point(of, moment, count, unit) for moment in moments)

    drawn = highest_moments(memory, count)
    made = [memory.made_in(phase)[list(drawn)] for phase in ("forward", "backward", "update")]
    amounts = {
        "weights, constants, batch": np.full(len(drawn), memory.resident_bytes - memory.state_bytes),
        "optimizer state": np.full(len(drawn), memory.state_bytes),
        **dict(zip(("activations", "gradients", "updates"), made)),
    }
    forward = [m.place for m in memory.moments if m.phase == "forward"]
    return Timeline(
        drawn,
        {name: tuple((amount / unit.size).tolist()) for name, amount in amounts.items()},
        points(memory, drawn),
        tuple(Line(name, points(other, highest_moments(other, count))) for name, other in others.items()),
        100 * (max(forward, default=-1) + 1) / max(count, 1),
        point(memory, memory.peak, count, unit),
        unit,
    )


def point(memory: StepMemory, moment: int, count: int, unit: Unit) -> TimelinePoint:
    """Args:
    count: operators of the whole training graph.
    """
    at, nbytes = memory.moments[moment], int(memory.live_bytes[moment])
    text = f"{COSTS['peak_bytes'].text(nbytes)}, {at.phase}: {moment_name(at)}"
    return TimelinePoint(100 * max(at.place, 0) / max(count, 1), nbytes / unit.size, text)


def highest_moments(memory: StepMemory, count: int) -> tuple[int, ...]:
    """The highest moment of each part of the step, in order; all of a short step."""
    best: dict[int, int] = {}
    for moment, (at, nbytes) in enumerate(zip(memory.moments, memory.live_bytes.tolist())):
        part = max(at.place, 0) * PARTS // max(count, PARTS)
        if part not in best or nbytes > memory.live_bytes[best[part]]:
            best[part] = moment
    return tuple(best.values())


def moment_at(memory: StepMemory, percent: float, count: int) -> int:
    """The highest moment near a place of the step; else the nearest.

    Args:
        percent: the place, of the operators of the whole training graph.
    """
    places = np.array([m.place for m in memory.moments]) * (100 / max(count, 1))
    away = np.abs(places - percent)
    near = np.flatnonzero(away <= max(NEAR_PERCENT, float(away.min())))
    return int(near[memory.live_bytes[near].argmax()])
