"""Picking and placing elements. Negative indices count from the end."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .operator_rules import NotRunnable, from_start, only, op
from .ops_shape import as_ints


def _wrapped(indices: Tensor, size: int) -> Tensor:
    indices = indices.to(torch.int64)
    return indices + (indices < 0).to(torch.int64) * size


@op("Gather", 1, 11, 13, leaves={"x": "weight"})
def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Along the first axis of a table it is an embedding, whose rows can be trained one by one."""
    axis = from_start(axis, x.ndim)
    indices = _wrapped(indices, x.shape[axis])
    if axis == 0 and x.ndim == 2:
        return F.embedding(indices, x)
    if indices.ndim == 1:
        return torch.index_select(x, axis, indices)
    picked = torch.index_select(x, axis, indices.reshape(-1))
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@op("GatherElements", 11, 13)
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return torch.gather(x, axis, _wrapped(indices, x.shape[axis]))


def _positions(indices: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Index tuples [..., K] as K index tensors."""
    return tuple(_wrapped(part, size) for part, size in zip(indices.unbind(-1), sizes))


@op("GatherND", 11, 12, 13, check=only(batch_dims=0))
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    return x[_positions(indices, tuple(x.shape))]


@op("ScatterElements", 11, 13, 16, 18, check=only(reduction=("none", "add")))
def scatter_elements(
    x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    indices = _wrapped(indices, x.shape[axis])
    if reduction == "add":
        return torch.scatter_add(x, axis, indices, updates)
    return torch.scatter(x, axis, indices, updates)


@op("ScatterND", 11, 13, 16, 18, check=only(reduction=("none", "add")))
def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    at = _positions(indices, tuple(x.shape))
    return torch.index_put(x, at, updates, accumulate=reduction == "add")


@op("OneHot", 9, 11, host=("depth", "values"))
def one_hot(indices: Tensor, depth: np.ndarray, values: np.ndarray, *, axis: int = -1) -> Tensor:
    """Indices out of range give a row of off values."""
    count = as_ints(depth)[0]
    axis = axis + indices.ndim + 1 if axis < 0 else axis
    classes = torch.arange(count).reshape([count if d == axis else 1 for d in range(indices.ndim + 1)])
    hot = _wrapped(indices, count).unsqueeze(axis) == classes
    off, on = (torch.from_numpy(values[i : i + 1].copy()) for i in range(2))
    return torch.where(hot, on, off)


@op("Trilu", 14, host=("k",))
def trilu(x: Tensor, k: np.ndarray | None = None, *, upper: int = 1) -> Tensor:
    diagonal = 0 if k is None else as_ints(k)[0]
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


@op("CumSum", 11, 14, host=("axis",))
def cumsum(x: Tensor, axis: np.ndarray, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    d = as_ints(axis)[0]
    x = x.flip(d) if reverse else x
    total = torch.cumsum(x, d, dtype=x.dtype)
    total = total - x if exclusive else total
    return total.flip(d) if reverse else total


@op("TopK", 10, 11, 24, host=("k",), outputs=2)
def top_k(
    x: Tensor, k: np.ndarray, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[Tensor, Tensor]:
    """Of equal elements the first, which `torch.topk` does not promise."""
    axis, count = from_start(axis, x.ndim), as_ints(k)[0]
    if not 0 <= count <= x.shape[axis]:
        raise NotRunnable(f"there are {x.shape[axis]} elements, and it picks {count}")
    values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


@op("ConstantOfShape", 9, 20, 21, 23, 24, 25, host=("shape",))
def constant_of_shape(shape: Any, *, value: Any = None) -> Tensor:
    raise NotRunnable("its shape depends on values that only a run can tell")


@op("Range", 11, host=("start", "limit", "delta"))
def range_(start: Any, limit: Any, delta: Any) -> Tensor:
    raise NotRunnable("its length depends on values that only a run can tell")
