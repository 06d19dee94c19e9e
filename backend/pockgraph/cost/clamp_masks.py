"""A clamp mask says where an activation (of ReLU, ReLU6, hardtanh, clamp) was clamped, one byte an element.

It is kept instead of the activation y where the backward pass only compares y with the bounds:

    one bound:    below = y <= low
    two bounds:   below = y <= low;  above = y >= high;  outside = below or above

Whoever keeps clamp masks, in a graph or in numbers, takes the operators that make them from here.
"""

from __future__ import annotations

from typing import NamedTuple

from .liveness import Step, liveness, schedule_of

CLAMP_MASK_BYTES = 1  # of one element: a boolean


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
CLAMP_MASK_STEPS: dict[int, tuple[MaskStep, ...]] = {
    1: (_BELOW,),
    2: (
        _BELOW,
        MaskStep("above", "ge.Scalar", bound=1),
        MaskStep("outside", "logical_or.default", reads=(0, 1)),
    ),
}


def clamp_masks_alive(bounds: int) -> int:
    """The most booleans an element alive at once while one is made."""
    steps = CLAMP_MASK_STEPS[bounds]
    made = [Step(s.name, i, CLAMP_MASK_BYTES, s.reads, True, True) for i, s in enumerate(steps)]
    return int(liveness(schedule_of(made), [len(steps) - 1]).live_bytes.max()) // CLAMP_MASK_BYTES
