"""Variances, norms and the places of extremes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .table import expands

aten = torch.ops.aten


@expands(aten.var_mean.correction)
def var_mean(
    x: Tensor, dims: Sequence[int] | None, *, correction: float | None, keepdim: bool
) -> tuple[Tensor, Tensor]:
    dims = list(dims) if dims else list(range(x.ndim))
    center = x.mean(dims, keepdim=True)
    delta = x - center
    count = math.prod(x.shape[d] for d in dims) - (1 if correction is None else correction)
    variance = (delta * delta).sum(dims, keepdim) / max(count, 0)
    return variance, center.reshape(variance.shape)


@expands(aten.var.correction)
def var(x: Tensor, dims: Sequence[int] | None, *, correction: float | None, keepdim: bool) -> Tensor:
    return var_mean(x, dims, correction=correction, keepdim=keepdim)[0]


@expands(aten.linalg_vector_norm.default)
def vector_norm(
    x: Tensor, order: float, dims: Sequence[int] | None, keepdim: bool, *, dtype: torch.dtype | None
) -> Tensor:
    x = x if dtype is None else x.to(dtype)
    dims = list(dims) if dims else list(range(x.ndim))
    if order == 2:
        return torch.sqrt((x * x).sum(dims, keepdim))
    if order == 0:
        return (x != 0).to(x.dtype).sum(dims, keepdim)
    size = x.abs()
    if math.isinf(order):
        return size.amax(dims, keepdim) if order > 0 else size.amin(dims, keepdim)
    if order == 1:
        return size.sum(dims, keepdim)
    return torch.pow(torch.pow(size, order).sum(dims, keepdim), 1 / order)


def _place(extreme: Callable[..., Any], x: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    if dim is not None:
        return extreme(x, dim, keepdim).indices
    index = extreme(x.reshape(-1), 0).indices
    return index.reshape([1] * x.ndim) if keepdim else index


@expands(aten.argmax.default)
def argmax(x: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    return _place(torch.max, x, dim, keepdim)


@expands(aten.argmin.default)
def argmin(x: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    return _place(torch.min, x, dim, keepdim)
