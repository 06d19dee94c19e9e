"""LearnerBudget: how much of the time training may take, and when it may not run at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import LearnerError, reason

MS_PER_MINUTE = 60_000.0


@dataclass(frozen=True)
class LearnerBudget:
    """What training in the background may take of a device.

    Attributes:
        duty_ratio: the largest share of the time, over 0 and up to 1.
        ms_per_minute: the same in milliseconds of each minute; the smaller of the two counts.
        idle: returns whether nobody needs the device just now; training waits until it is true.
        pause: returns why training must rest ("on battery", "72 °C"), or None or "" while it may go on.

    Both functions are asked before each step, from the thread that trains. While one of them fails, training
    rests.

    Raises:
        LearnerError: a share or a time that is none.
    """

    duty_ratio: float = 0.1
    ms_per_minute: float | None = None
    idle: Callable[[], bool] | None = None
    pause: Callable[[], str | None] | None = None

    def __post_init__(self) -> None:
        for name, most in (("duty_ratio", 1.0), ("ms_per_minute", MS_PER_MINUTE)):
            value = getattr(self, name)
            if value is None:
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and math.isfinite(value) and 0 < value <= most):
                raise LearnerError(f"{name}={str(value)[:40]} is over 0 and at most {most:g}.")

    @property
    def ratio(self) -> float:
        """The share of the time that counts."""
        given = self.ms_per_minute
        return self.duty_ratio if given is None else min(self.duty_ratio, given / MS_PER_MINUTE)

    def held_back(self) -> tuple[str, str]:
        """Why `pause`, and why anything at all, has training rest just now; empty where nothing does."""
        try:
            if paused := str((self.pause() if self.pause else None) or "")[:200]:
                return paused, paused
            return "", "" if self.idle is None or self.idle() else "not idle"
        except Exception as e:  # whatever the application's own functions raise
            failed = f"the budget's function failed: {reason(e)}"[:200]
            return failed, failed


class Pacer:
    """Spreads work over time: after each piece it rests, so that the share is kept from the first piece on.

    In any stretch of time the work is at most the budget's share of it and one piece.

    Args:
        clock: seconds, growing.
    """

    def __init__(self, budget: LearnerBudget, clock: Callable[[], float]) -> None:
        self._ratio, self._clock = budget.ratio, clock
        self._free_at = -math.inf

    def rest_s(self) -> float:
        """How long to rest before the next piece; 0: it may begin."""
        return max(0.0, self._free_at - self._clock())

    def spent(self, work_s: float) -> None:
        """A piece of work took so long, and ended now."""
        self._free_at = self._clock() + work_s * (1 / self._ratio - 1)
