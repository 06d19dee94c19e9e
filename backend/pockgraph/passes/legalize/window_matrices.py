"""Averages over windows and resizing as matrices `[out, in]`, one a dimension: both are linear and separable.

So a gradient is the product with the matrix transposed. Expansions multiply by them, and so do the rules of
`targets/shared/pooling.py`: runtimes multiply from either side without moving a dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

aten = torch.ops.aten


def each(amounts: Sequence[int], count: int) -> list[int]:
    """ATen's size for `count` dimensions, where one number may stand for all."""
    return list(amounts) * count if len(amounts) == 1 else list(amounts)


def average_matrices(
    size: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    counts_padding: bool,
    divisor: int | None,
) -> list[Tensor]:
    """Of an average pool from `size` to `out`, in any number of dimensions; the others as ATen has them."""
    n = len(out)
    k, s, p = each(kernel, n), each(stride or kernel, n), each(padding, n)
    found = [
        _average_matrix(size[i], out[i], k[i], s[i], p[i], counts_padding, divisor is None) for i in range(n)
    ]
    return found if divisor is None else [found[0] / divisor, *found[1:]]


def _average_matrix(
    size: int, out: int, kernel: int, stride: int, padding: int, counts_padding: bool, divides: bool
) -> Tensor:
    """Row i averages (or adds up) the window of output i."""
    start = (torch.arange(out) * stride - padding)[:, None]
    stop = (start + kernel).clamp_max(size + padding)
    place = torch.arange(size)
    inside = ((place >= start) & (place < stop)).float()
    if not divides:
        return inside
    return inside / ((stop - start).float() if counts_padding else inside.sum(1, keepdim=True))


def adaptive_bounds(size: int, out: int) -> tuple[Tensor, Tensor]:
    """Where each window of an adaptive pool starts and stops, [out, 1]."""
    i = torch.arange(out)[:, None]
    return i * size // out, ((i + 1) * size + out - 1) // out


def adaptive_matrix(size: int, out: int) -> Tensor:
    """Of adaptive average pooling along one dimension."""
    start, stop = adaptive_bounds(size, out)
    place = torch.arange(size)
    return ((place >= start) & (place < stop)) / (stop - start)


def nearest_matrix(size: int, out: int, scale: float | None) -> Tensor:
    """What PyTorch makes of the rows of the identity."""
    return aten.upsample_nearest1d.default(torch.eye(size)[None], [out], scale)[0].T


def exact_nearest_matrix(size: int, out: int, scale: float | None) -> Tensor:
    return aten._upsample_nearest_exact1d.default(torch.eye(size)[None], [out], scale)[0].T


def linear_matrix(size: int, out: int, scale: float | None, align_corners: bool) -> Tensor:
    return aten.upsample_linear1d.default(torch.eye(size)[None], [out], align_corners, scale)[0].T
