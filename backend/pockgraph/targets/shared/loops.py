"""How the steps of a loop are dealt out to its iterations."""

from __future__ import annotations

MOST_STEPS = 16


def steps_an_iteration(count: int, most: int = MOST_STEPS) -> int:
    """The largest divisor of `count` up to `most`: an iteration costs the same for one step or several."""
    return max(k for k in range(1, most + 1) if count % k == 0)
