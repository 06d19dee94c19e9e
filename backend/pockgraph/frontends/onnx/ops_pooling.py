"""Pooling over windows and over everything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .operator_rules import NotRunnable, is_plain, op
from .ops_convolution import PADDINGS, flat_pads, spatial_pads

MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _windows(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
    both: Sequence[tuple[int, int]], ceil_mode: int,
) -> list[int]:  # fmt: skip
    """How many windows fit along each spatial dimension; in ceil mode none starts after the data."""
    counts = []
    for size, k, s, d, (before, after) in zip(x.shape[2:], kernel, strides, dilations, both):
        room = size + before + after - d * (k - 1) - 1
        count = (-(-room // s) if ceil_mode else room // s) + 1
        if ceil_mode and (count - 1) * s >= size + before:
            count -= 1
        counts.append(count)
    return counts


def _require_ndim(ndim: int) -> None:
    if ndim not in MAX_POOL:
        raise NotRunnable(f"{ndim} spatial dimensions are not supported, only one to three")


@op("MaxPool", 1, 8, 10, 11, 12, 22, check=PADDINGS)
def max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """PyTorch pads alike at both ends and by half a kernel at most; else what is missing is added as -inf."""
    ndim = x.ndim - 2
    _require_ndim(ndim)
    strides, dilations = strides or [1] * ndim, dilations or [1] * ndim
    both = spatial_pads(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    counts = _windows(x, kernel_shape, strides, dilations, both, ceil_mode)
    padding = [before for before, _ in both]
    plain = all(before == after and 2 * before <= k for (before, after), k in zip(both, kernel_shape))
    if not plain:
        spans = zip(x.shape[2:], counts, kernel_shape, strides, dilations, both)
        whole = [(b, (n - 1) * s + d * (k - 1) + 1 - size - b) for size, n, k, s, d, (b, _) in spans]
        x, padding, ceil_mode = F.pad(x, flat_pads(whole), value=-math.inf), [0] * ndim, 0
    y = MAX_POOL[ndim](
        x, tuple(kernel_shape), tuple(strides), tuple(padding), tuple(dilations), bool(ceil_mode)
    )
    assert list(y.shape[2:]) == counts
    return y


def _average(attributes: Mapping[str, Any]) -> str:
    return PADDINGS(attributes) or is_plain("dilations")(attributes)


@op("AveragePool", 7, 10, 11, 19, 22, check=_average)
def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    ndim = x.ndim - 2
    _require_ndim(ndim)
    strides, ones = strides or [1] * ndim, [1] * ndim
    both = spatial_pads(x.shape[2:], kernel_shape, strides, ones, pads, auto_pad)
    kernel, steps = tuple(kernel_shape), tuple(strides)
    if not ceil_mode and all(before == after and 2 * before <= k for (before, after), k in zip(both, kernel)):
        padding = tuple(before for before, _ in both)
        return AVG_POOL[ndim](x, kernel, steps, padding, False, bool(count_include_pad))
    # The sum over zeros is the sum; the mean of ones over the same windows says how many were counted.
    counts = _windows(x, kernel, strides, ones, both, ceil_mode)
    spans = zip(x.shape[2:], counts, kernel, strides, both)
    whole = [(b, (n - 1) * s + k - size - b) for size, n, k, s, (b, _) in spans]
    counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    if count_include_pad:
        counted = F.pad(counted, flat_pads(both), value=1.0)
        missing = [(0, after - given) for (_, after), (_, given) in zip(whole, both)]
        counted = F.pad(counted, flat_pads(missing))
    else:
        counted = F.pad(counted, flat_pads(whole))
    return AVG_POOL[ndim](F.pad(x, flat_pads(whole)), kernel, steps) / AVG_POOL[ndim](counted, kernel, steps)


@op("GlobalAveragePool", 1, 22)
def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@op("GlobalMaxPool", 1, 22)
def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)
