"""The kinds of cost a plan has, and what each means."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from . import format as fmt

if TYPE_CHECKING:
    from pockgraph.profile import Profile


class Unit(NamedTuple):
    """A unit, and how many of the base unit (bytes, FLOPs, ms) it is."""

    name: str
    size: float


class Cost(NamedTuple):
    """One kind of cost.

    Attributes:
        key: the attribute of `Figures`.
        title: for tiles, axes and menus.
        help: what the number means.
        text: a figure with its unit.
        units: of axes, each a thousand of the one before.
    """

    key: str
    title: str
    help: str
    text: Callable[[float | None], str]
    units: tuple[str, ...]

    def axis(self, largest: float) -> Unit:
        """The unit in which `largest` is written with few digits."""
        power = 0
        while power < len(self.units) - 1 and abs(largest) >= 1000 ** (power + 1):
            power += 1
        return Unit(self.units[power], 1000.0**power)


MEASURED = {"process_bytes": "memory", "step_ms": "time"}  # cost -> the profile's model that tells it

COSTS = {
    cost.key: cost
    for cost in (
        Cost(
            "peak_bytes",
            "Peak memory",
            "Modelled: all that is alive at the worst moment of a step, weights included. "
            "No allocator, no runtime.",
            fmt.size,
            ("B", "kB", "MB", "GB"),
        ),
        Cost(
            "extra_bytes",
            "Training memory",
            "Kept only because the network trains: saved activations and optimizer state.",
            fmt.size,
            ("B", "kB", "MB", "GB"),
        ),
        Cost(
            "process_bytes",
            "Process memory",
            "Predicted peak of the whole process on the measured device, as the operating system counts it: "
            "runtime, constants, state and activations.",
            fmt.size,
            ("B", "kB", "MB", "GB"),
        ),
        Cost(
            "flops",
            "Compute",
            "Floating-point operations of one step: forward, backward and update. A multiply-add counts two.",
            fmt.flops,
            ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"),
        ),
        Cost(
            "step_ms",
            "Step time",
            "Predicted wall-clock time of one step on the measured device.",
            fmt.milliseconds,
            ("ms",),
        ),
    )
}


def is_known(key: str, profile: Profile) -> bool:
    """Does this profile tell this cost of plans? Some need measurements on a device."""
    return key not in MEASURED or getattr(profile, MEASURED[key]) is not None
