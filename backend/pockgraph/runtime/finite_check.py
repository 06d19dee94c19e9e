"""Whether a step's result is finite, for a small share of the step's time. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np


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
