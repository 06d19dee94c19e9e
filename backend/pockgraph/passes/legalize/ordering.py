"""Sorting, ranks, and scans along a dimension.

A scan takes log2(n) steps: in each, every element meets what stands 1, 2, 4, … places before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .table import expands

aten = torch.ops.aten

# ---------------------------------------------------------------- order


@expands(aten.sort.default)
def sort(x: Tensor, dim: int, descending: bool) -> tuple[Tensor, Tensor]:
    if x.ndim == 0:
        return x.clone(), torch.zeros_like(x, dtype=torch.int64)
    values = x.to(torch.int32) if x.dtype == torch.bool else x
    values, indices = torch.topk(values, x.shape[dim], dim, largest=descending, sorted=True)
    return values.to(x.dtype), indices


@expands(aten.sort.stable)
def sort_stable(
    x: Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Tensor, Tensor]:
    """Equal elements keep their order: the k largest come with the lower index first on every target."""
    return sort(x, dim, descending)


def _ranked(x: Tensor, rank: int, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    """The element of a rank, counted from 0 for the smallest."""
    if x.ndim == 0:
        return x.clone(), torch.zeros_like(x, dtype=torch.int64)
    values, indices = torch.topk(x, rank + 1, dim, largest=False, sorted=True)
    last = [t.narrow(dim, rank, 1) for t in (values, indices)]
    return tuple(t if keepdim else t.squeeze(dim) for t in last)  # pyright: ignore


@expands(aten.kthvalue.default)
def kthvalue(x: Tensor, k: int, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    return _ranked(x, k - 1, dim, keepdim)


@expands(aten.median.dim)
def median(x: Tensor, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    return _ranked(x, (x.shape[dim] - 1) // 2 if x.ndim else 0, dim, keepdim)


@expands(aten.median.default)
def median_of_all(x: Tensor) -> Tensor:
    return _ranked(x.reshape(-1), (x.numel() - 1) // 2, 0, False)[0]


# ---------------------------------------------------------------- scans


def scan(
    x: Tensor, dim: int, join: Callable[[Tensor, Tensor], Tensor], neutral: float | None = None
) -> Tensor:
    """Element i joined with all before it along `dim`.

    Args:
        neutral: what the first elements are joined with; None joins them with themselves, as is right for
            extremes.
    """
    dim %= max(x.ndim, 1)
    size = x.shape[dim] if x.ndim else 1
    step = 1
    while step < size:
        before = x.narrow(dim, 0, size - step)
        if neutral is None:
            before = torch.cat([x.narrow(dim, 0, step), before], dim)
        else:
            before = F.pad(before, [*[0, 0] * (x.ndim - 1 - dim), step, 0], value=neutral)
        x = join(before, x)
        step *= 2
    return x


@expands(aten.cumprod.default)
def cumprod(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    return scan(x if dtype is None else x.to(dtype), dim, torch.mul, 1)


def _records(x: Tensor, dim: int, join: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The extreme element so far, and the last place that has it."""
    values = scan(x, dim, join)
    shape = [s if d == dim % max(x.ndim, 1) else 1 for d, s in enumerate(x.shape)]
    place = torch.arange(math.prod(shape)).view(shape)
    return values, scan(torch.where(x == values, place, 0), dim, torch.maximum)


@expands(aten.cummax.default)
def cummax(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    return _records(x, dim, torch.maximum)


@expands(aten.cummin.default)
def cummin(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    return _records(x, dim, torch.minimum)


def log_add(a: Tensor, b: Tensor) -> Tensor:
    """log(exp(a) + exp(b)), of which each may be -inf."""
    most = torch.maximum(a, b)
    top = torch.where(most == -math.inf, 0.0, most)
    return top + torch.log(torch.exp(a - top) + torch.exp(b - top))


@expands(aten.logcumsumexp.default)
def logcumsumexp(x: Tensor, dim: int) -> Tensor:
    return scan(x, dim, log_add, -math.inf)
