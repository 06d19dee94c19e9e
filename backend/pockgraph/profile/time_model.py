"""A step's time from its work. `model_fits.py` fits it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEAST_TIMED_PLANS = 2  # that such a model can be fitted to


@dataclass(frozen=True)
class TimeModel:
    """Milliseconds of a step as a linear function of the work of each kind.

    Attributes:
        target: what was timed.
        overhead_ms: of a step without work.
        ms_per_unit: milliseconds per unit of work, one for each of `WORK_KINDS`.
        error_ratio: median of |predicted - measured| / measured over the plans it was fitted on.
        points: how many plans were timed.
    """

    target: str
    overhead_ms: float
    ms_per_unit: tuple[float, ...]
    error_ratio: float
    points: int

    def predict(self, work: Sequence[int]) -> float:
        return self.overhead_ms + sum(c * w for c, w in zip(self.ms_per_unit, work, strict=True))
