"""Distances, and products of several tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .table import expands

aten = torch.ops.aten

# ---------------------------------------------------------------- distances


def _length(delta: Tensor, p: float) -> Tensor:
    """The p-norm of the last dimension."""
    size = delta.abs()
    if p == 0:
        return (delta != 0).to(delta.dtype).sum(-1)
    if p == 1:
        return size.sum(-1)
    if p == 2:
        return (delta * delta).sum(-1).sqrt()
    if math.isinf(p):
        return size.amax(-1)
    return size.pow(p).sum(-1).pow(1 / p)


def _slope(dy: Tensor, delta: Tensor, distance: Tensor, p: float) -> Tensor:
    """The gradient of `delta`, of distances and their gradient; nothing where a distance is zero."""
    if p == 0:
        return torch.zeros_like(delta)
    dy, distance = dy.unsqueeze(-1), distance.unsqueeze(-1)
    if p == 1:
        return dy * delta.sign()
    safe = torch.where(distance == 0, 1.0, distance)
    if p == 2:
        slope = dy * delta / safe
    elif math.isinf(p):
        slope = torch.where(delta.abs() == distance, dy * delta.sign(), 0.0)
    else:
        slope = dy * delta.sign() * (delta.abs() / safe).pow(p - 1)
        if p < 1:
            slope = torch.where(delta == 0, 0.0, slope)
    return torch.where(distance == 0, 0.0, slope)


@expands(aten._cdist_forward.default)
def cdist(a: Tensor, b: Tensor, p: float, compute_mode: int | None) -> Tensor:
    return _length(a.unsqueeze(-2) - b.unsqueeze(-3), p)


@expands(aten._cdist_backward.default)
def cdist_backward(dy: Tensor, a: Tensor, b: Tensor, p: float, distance: Tensor) -> Tensor:
    return _slope(dy, a.unsqueeze(-2) - b.unsqueeze(-3), distance, p).sum(-2)


@expands(aten._pdist_forward.default)
def pdist(x: Tensor, p: float) -> Tensor:
    i, j = torch.triu_indices(x.shape[0], x.shape[0], 1)
    return _length(x.index_select(0, i) - x.index_select(0, j), p)


@expands(aten._pdist_backward.default)
def pdist_backward(dy: Tensor, x: Tensor, p: float, distance: Tensor) -> Tensor:
    i, j = torch.triu_indices(x.shape[0], x.shape[0], 1)
    slope = _slope(dy, x.index_select(0, i) - x.index_select(0, j), distance, p)
    return torch.zeros_like(x).index_add(0, i, slope).index_add(0, j, -slope)


# ---------------------------------------------------------------- products


@expands(aten._trilinear.default)
def trilinear(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    expand_a: Sequence[int],
    expand_b: Sequence[int],
    expand_c: Sequence[int],
    summed: Sequence[int],
    unroll_dim: int,
) -> Tensor:
    """Each tensor lacks the dimensions it is expanded in: what is left is a sum of products."""
    ndim = a.ndim + len(expand_a)
    every = "abcdefghijklmnopqrstuvwxyz"[:ndim]
    names = ["".join(n for d, n in enumerate(every) if d not in e) for e in (expand_a, expand_b, expand_c)]
    out = "".join(n for d, n in enumerate(every) if d not in summed)
    return torch.einsum(f"{','.join(names)}->{out}", a, b, c)


@expands(aten.addmm.default)
def addmm(x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    product = torch.mm(a, b)
    product = product if alpha == 1 else alpha * product
    if beta == 0:
        return product
    return product + (x if beta == 1 else beta * x)


@expands(aten.mv.default)
def mv(a: Tensor, x: Tensor) -> Tensor:
    """PyTorch's decomposition multiplies element by element."""
    return torch.mm(a, x.unsqueeze(1)).squeeze(1)


@expands(aten.addmv.default)
def addmv(y: Tensor, a: Tensor, x: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return addmm(y.unsqueeze(-1), a, x.unsqueeze(1), beta=beta, alpha=alpha).squeeze(1)


@expands(aten.addbmm.default)
def addbmm(x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * x + alpha * torch.bmm(a, b).sum(0)


@expands(aten._weight_norm_interface.default)
def weight_norm(v: Tensor, g: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    norm = (v * v).sum(_others(v, dim), keepdim=True).sqrt()
    return v * (g / norm), norm


@expands(aten._weight_norm_interface_backward.default)
def weight_norm_backward(dw: Tensor, v: Tensor, g: Tensor, norm: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    dg = (dw * v).sum(_others(v, dim), keepdim=True) / norm
    return g / norm * (dw - v * (dg / norm)), dg


def _others(v: Tensor, dim: int) -> list[int]:
    return [d for d in range(v.ndim) if d != dim % v.ndim]
