"""How the steps of a loop are dealt out to its iterations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Values = Sequence[Any]
# (one step of each sequence, what the step before left, what all steps share)
# -> (what the next step gets, what is kept of this one)
Step = Callable[[Values, Values, Values], tuple[Values, Values]]

MOST_STEPS = 16


def steps_an_iteration(count: int, most: int = MOST_STEPS) -> int:
    """The largest divisor of `count` up to `most`: an iteration costs the same for one step or several."""
    return max(k for k in range(1, most + 1) if count % k == 0)


def iteration(
    emit: Any, step: Step, sequences: Values, state: Values, shared: Values, size: int, reverse: bool
) -> tuple[Values, list[Any]]:
    """`size` steps, one after the other.

    Args:
        sequences: of this iteration. Steps stand in one dimension with the samples: cut apart they need no
            reshape.
        state: what the iteration before left.

    Returns:
        What the next iteration gets; and what is kept, as `sequences`.
    """
    single = [emit.pieces(s, size, 0) for s in sequences]
    kept: list[Values] = [()] * size
    for i in reversed(range(size)) if reverse else range(size):
        state, kept[i] = step([s[i] for s in single], state, shared)
    return state, [emit.concat(each, 0) for each in zip(*kept)]
