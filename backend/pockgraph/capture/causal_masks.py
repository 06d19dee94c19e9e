"""`nn.Transformer` with a mask, as its encoder and decoder are run one after the other.

They look at the values of a mask to tell whether it is causal, and if so let faster kernels make it
themselves. A trace knows no values, and the mask that was given computes the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn.modules import transformer

_DETECT = transformer._detect_is_causal_mask


@contextmanager
def masks_as_given() -> Iterator[None]:
    """No mask is looked at: those that the caller does not call causal are applied."""
    transformer._detect_is_causal_mask = _as_told
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = _DETECT


def _as_told(mask: Any, is_causal: bool | None = None, size: int | None = None) -> bool:
    return is_causal is True
