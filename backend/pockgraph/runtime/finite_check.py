"""Whether a step's result is finite, for a small share of the step's time. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from ..errors import BatchError, suggest

OnNonfinite = Literal["error", "skip"]


def checked_policy(value: Any) -> OnNonfinite:
    """`value`, if it says what to do about a step that is not finite.

    Raises:
        BatchError: it does not; with suggestions.
    """
    known = get_args(OnNonfinite)
    if value not in known:
        raise BatchError(
            f"on_nonfinite={value!r} is none of {', '.join(map(repr, known))}.{suggest(str(value), known)}"
        )
    return value


@np.errstate(over="ignore", invalid="ignore")
def is_finite(array: np.ndarray) -> bool:
    """Whether no element is NaN or infinite: one reading at the memory's speed, two if squares overflow."""
    if array.dtype.kind != "f":
        return True
    flat = array.ravel(order="K")
    return math.isfinite(flat.dot(flat)) or bool(np.isfinite(flat).all())


@np.errstate(over="ignore", invalid="ignore")
def nonfinite(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The names of those flat float arrays `[n]` that hold NaN or infinite values."""
    if all(math.isfinite(array.dot(array)) for array in arrays.values()):
        return []
    return [name for name, array in arrays.items() if not np.isfinite(array).all()]
