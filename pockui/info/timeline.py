"""What is alive over a training step: bytes after each operator, and where the peak is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from .costs import COSTS

if TYPE_CHECKING:
    from pockgraph.profile import Profile


class TimelinePoint(NamedTuple):
    """One operator: `x` is its place in the step, in percent; `y` what is alive, in the axis' unit."""

    x: float
    y: float
    text: str


class Timeline(NamedTuple):
    """A step of the plan, beside one that trains everything.

    Attributes:
        forward, backward: of the plan; the backward pass holds the updates, too.
        full: of the whole training graph.
        peak: where most is alive.
    """

    forward: tuple[TimelinePoint, ...]
    backward: tuple[TimelinePoint, ...]
    full: tuple[TimelinePoint, ...]
    peak: TimelinePoint
    y_title: str


def timeline(profile: Profile, choice: Mapping[str, float]) -> Timeline:
    """Args:
    choice: FQN -> trained share.
    """
    cost = COSTS["peak_bytes"]
    ours = profile.live_bytes(choice)
    whole = profile.live_bytes({tensor.fqn: 1.0 for tensor in profile.tensors})
    unit = cost.axis(max(alive for _, _, alive in whole))

    def points(step: list[tuple[str, bool, int]]) -> list[tuple[bool, TimelinePoint]]:
        return [
            (forward, TimelinePoint(100 * i / len(step), alive / unit.size, f"{cost.text(alive)} at {name}"))
            for i, (name, forward, alive) in enumerate(step)
        ]

    mine = points(ours)
    forward = tuple(point for is_forward, point in mine if is_forward)
    return Timeline(
        forward=forward,
        backward=forward[-1:] + tuple(point for is_forward, point in mine if not is_forward),
        full=tuple(point for _, point in points(whole)),
        peak=max((point for _, point in mine), key=lambda point: point.y),
        y_title=f"Alive, {unit.name}",
    )
