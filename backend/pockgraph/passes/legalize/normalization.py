"""Norms, and the gradients of norms and softmax, where PyTorch's own decompositions do not serve.

A group norm is a layer norm of its groups, which runtimes have as one kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .table import expands

aten = torch.ops.aten


def _gradient(g: Tensor, normalized: Tensor, rstd: Tensor, dims: list[int]) -> Tensor:
    """rstd (g - mean(g) - normalized mean(g normalized)), g the gradient of the normalized tensor."""
    along = normalized * (g * normalized).mean(dims, keepdim=True)
    return rstd * (g - g.mean(dims, keepdim=True) - along)


@expands(aten.native_layer_norm.default)
def layer_norm(
    x: Tensor, size: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    inner = list(range(x.ndim - len(size), x.ndim))
    mean = x.mean(inner, keepdim=True)
    rstd = (x.var(inner, correction=0, keepdim=True) + eps).rsqrt()
    y = (x - mean) * rstd
    y = y if weight is None else y * weight
    return y if bias is None else y + bias, mean, rstd


@expands(aten.native_layer_norm_backward.default)
def layer_norm_backward(
    dy: Tensor,
    x: Tensor,
    size: Sequence[int],
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """PyTorch's decomposition takes one product with a constant more."""
    dims = list(range(x.ndim))
    outer, inner = dims[: x.ndim - len(size)], dims[x.ndim - len(size) :]
    normalized = (x - mean) * rstd
    dx = dw = db = None
    if output_mask[0]:
        dx = _gradient(dy if weight is None else dy * weight, normalized, rstd, inner)
    if output_mask[1]:
        dw = (dy * normalized).sum(outer) if outer else dy * normalized
    if output_mask[2]:
        db = dy.sum(outer) if outer else dy
    return dx, dw, db


def _per_channel(v: Tensor, x: Tensor) -> Tensor:
    return v.reshape([1, -1, *[1] * (x.ndim - 2)])


@expands(aten.native_group_norm.default)
def group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, c: int, hw: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    size = c * hw // groups
    y, mean, rstd = aten.native_layer_norm.default(x.reshape(n, groups, size), [size], None, None, eps)
    y = y.reshape(x.shape)
    y = y if weight is None else y * _per_channel(weight, x)
    y = y if bias is None else y + _per_channel(bias, x)
    return y, mean.reshape(n, groups), rstd.reshape(n, groups)


@expands(aten.native_group_norm_backward.default)
def group_norm_backward(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    n: int,
    c: int,
    hw: int,
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """PyTorch's decomposition adds up per channel first, which loses digits where a mean is large."""
    size = [n, groups, c * hw // groups]
    rstd = rstd.reshape(n, groups, 1)
    normalized = (x.reshape(size) - mean.reshape(n, groups, 1)) * rstd
    others = [d for d in range(x.ndim) if d != 1]
    dx = dw = db = None
    if output_mask[0]:
        g = dy if weight is None else dy * _per_channel(weight, x)
        dx = _gradient(g.reshape(size), normalized, rstd, [2]).reshape(x.shape)
    if output_mask[1]:
        dw = (dy * normalized.reshape(x.shape)).sum(others)
    if output_mask[2]:
        db = dy.sum(others)
    return dx, dw, db


@expands(aten._softmax_backward_data.default)
def softmax_backward(dy: Tensor, y: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """PyTorch's decomposition rounds a product before it subtracts it from one as large."""
    return y * (dy - (dy * y).sum(dim, keepdim=True))
