"""Budget: what a training step may cost."""

from __future__ import annotations

import numbers
from dataclasses import dataclass

from ..errors import BudgetError

LIMITS = ("peak_bytes", "extra_bytes", "process_bytes", "step_ms")  # what a budget may limit


@dataclass(frozen=True)
class Budget:
    """What a training step may cost; leave out what does not matter.

    Attributes:
        peak_bytes: modelled peak, weights included.
        step_ms: predicted time of a step; needs a profile with a time model.
        extra_bytes: saved activations and optimizer state.
        process_bytes: predicted peak of the process, as the operating system counts it; needs a profile with
            a memory model.
    """

    peak_bytes: int | None = None
    step_ms: float | None = None
    extra_bytes: int | None = None
    process_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, value in self.limits.items():
            number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not (number and value > 0):
                raise BudgetError(f"Budget: {name} must be a number above 0, got {value!r}.")

    @property
    def limits(self) -> dict[str, float]:
        """Name -> limit, of those that are given."""
        return {name: value for name in LIMITS if (value := getattr(self, name)) is not None}
