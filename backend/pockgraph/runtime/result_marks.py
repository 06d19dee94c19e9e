"""What a graph says with its result when a check that it makes of its own integers failed. Imports no torch.

The loss, or all of the metric, is then one of two numbers that nothing else comes to: float32, int32 and
wider dtypes hold both exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import listing

OUT_OF_BOUNDS = -(235 << 23)
INEXACT = -(233 << 23)


def failed_check(result: Any, indices: Sequence[str], integers: Sequence[str], numbered: bool) -> str:
    """Which check a loss or a metric speaks of, in words that follow "In step 3 "; or an empty string.

    Args:
        indices: those that are checked, in words; integers: those that a target must hold exactly.
        numbered: False for artefacts of older versions, whose mark is -inf, or NaN in a metric.
    """
    values = np.asarray(result)
    if not values.size:
        return ""
    if numbered:
        bad = (values == OUT_OF_BOUNDS).all()
    else:
        bad = np.isnan(values).all() if values.ndim else values == -math.inf
    if indices and bad:
        return (
            f"an index that the model computes from the batch is out of bounds: {listing(indices)}. PyTorch "
            "would raise an error there. Correct the data, or the model."
        )
    if integers and (values == INEXACT).all():
        return (
            f"an integer that the model computes is beyond 2**24, up to where this target computes exactly: "
            f"{listing(integers)}. Compute with smaller numbers, such as remainders or days instead of "
            "seconds, or take another target."
        )
    return ""
