"""What it takes to keep a mask of a clamped activation y (ReLU, ReLU6, hardtanh, clamp) instead of y itself,
where the backward pass only compares y with its bounds: one byte an element, and the operators that make it.

    one bound:    below = y <= low
    two bounds:   below = y <= low;  above = y >= high;  outside = below or above

Whoever keeps masks, in a graph or in numbers, takes the operators that make them from here.
"""

from __future__ import annotations

from typing import NamedTuple

from .liveness import Step, liveness, schedule_of

MASK_BYTES = 1  # of one element: a boolean


class MaskStep(NamedTuple):
    """One elementwise operator of the forward pass, right after the activation.

    Attributes:
        name: what it makes.
        op: the overload of ATen that makes it.
        bound: the position of the bound that it compares the activation with; None: it compares nothing.
        reads: the positions of the steps that it reads; none: it reads the activation.
    """

    name: str
    op: str
    bound: int | None = None
    reads: tuple[int, ...] = ()


_BELOW = MaskStep("below", "le.Scalar", bound=0)
# Number of bounds -> the steps; the last one makes the mask.
MASK_STEPS: dict[int, tuple[MaskStep, ...]] = {
    1: (_BELOW,),
    2: (
        _BELOW,
        MaskStep("above", "ge.Scalar", bound=1),
        MaskStep("outside", "logical_or.default", reads=(0, 1)),
    ),
}


def masks_alive(bounds: int) -> int:
    """The most masks alive at once while one is made."""
    steps = MASK_STEPS[bounds]
    made = [Step(s.name, i, MASK_BYTES, s.reads, True, True) for i, s in enumerate(steps)]
    return int(liveness(schedule_of(made), [len(steps) - 1]).live_bytes.max()) // MASK_BYTES
