"""Reductions, and what scans or ranks along a dimension."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from . import emit, op
from .rules import Context, check, rule
from .value import Value

aten = torch.ops.aten


def dims_of(x: Value, dims: Sequence[int] | int | None) -> list[int]:
    """ATen's `dim`: None or an empty list mean every dimension."""
    dims = [dims] if isinstance(dims, int) else dims
    return [emit.axis(d, emit.rank(x)) for d in dims] if dims else list(range(emit.rank(x)))


def _out_dtype(node: fx.Node) -> torch.dtype:
    val = node.meta["val"]
    return (val[0] if isinstance(val, tuple) else val).dtype


def _reduced(function: Callable[..., Any], x: Value, dims: Any, keepdim: bool) -> Value:
    if not emit.rank(x):
        return x
    if emit.dtype(x) == torch.bool:  # ONNX reduces numbers only
        return emit.convert(function(emit.convert(x, torch.int32), dims_of(x, dims), keepdim), torch.bool)
    return function(x, dims_of(x, dims), keepdim)


# ---------------------------------------------------------------- sums


@rule(aten.sum.default)
def sum_all(ctx: Context, node: fx.Node, x: Value, dtype: Any) -> Value:
    return sum_dims(ctx, node, x, None, False, dtype)


@rule(aten.sum.dim_IntList)
def sum_dims(ctx: Context, node: fx.Node, x: Value, dims: Any, keepdim: bool, dtype: Any) -> Value:
    return emit.total(emit.convert(x, _out_dtype(node)), dims_of(x, dims), keepdim)


@rule(aten.mean.default)
def mean_all(ctx: Context, node: fx.Node, x: Value, dtype: Any) -> Value:
    return mean_dims(ctx, node, x, None, False, dtype)


@rule(aten.mean.dim)
def mean_dims(ctx: Context, node: fx.Node, x: Value, dims: Any, keepdim: bool, dtype: Any) -> Value:
    return emit.mean(emit.convert(x, _out_dtype(node)), dims_of(x, dims), keepdim)


@rule(aten.prod.default)
def prod_all(ctx: Context, node: fx.Node, x: Value, dtype: Any) -> Value:
    return _reduced(op.reduce_prod, emit.convert(x, _out_dtype(node)), None, False)


@rule(aten.prod.dim_int)
def prod_dim(ctx: Context, node: fx.Node, x: Value, dim: int, keepdim: bool, dtype: Any) -> Value:
    return _reduced(op.reduce_prod, emit.convert(x, _out_dtype(node)), dim, keepdim)


def _variance(x: Value, dims: Any, correction: float | None, keepdim: bool) -> tuple[Value, Value]:
    dims = dims_of(x, dims)
    center = emit.mean(x, dims, keepdim=True)
    delta = emit.sub(x, center)
    count = math.prod(emit.shape(x)[d] for d in dims)
    correction = 1 if correction is None else correction
    variance = emit.scale(emit.total(emit.mul(delta, delta), dims, keepdim), 1 / max(count - correction, 0))
    return variance, emit.reshape(center, emit.shape(variance))


@rule(aten.var.correction)
def var(ctx: Context, node: fx.Node, x: Value, dims: Any, correction: float | None, keepdim: bool) -> Value:
    return _variance(x, dims, correction, keepdim)[0]


@rule(aten.std.correction)
def std(ctx: Context, node: fx.Node, x: Value, dims: Any, correction: float | None, keepdim: bool) -> Value:
    return op.sqrt(_variance(x, dims, correction, keepdim)[0])


@rule(aten.var_mean.correction)
def var_mean(
    ctx: Context, node: fx.Node, x: Value, dims: Any, correction: float | None, keepdim: bool
) -> tuple[Value, Value]:
    return _variance(x, dims, correction, keepdim)


@rule(aten.linalg_vector_norm.default)
def vector_norm(
    ctx: Context, node: fx.Node, x: Value, order: float, dims: Any, keepdim: bool, dtype: Any
) -> Value:
    x = emit.convert(x, _out_dtype(node))
    if order == 2:
        return op.sqrt(emit.total(emit.mul(x, x), dims_of(x, dims), keepdim))
    size = op.abs(x)
    if math.isinf(order):
        return _reduced(op.reduce_max if order > 0 else op.reduce_min, size, dims, keepdim)
    if order == 1:
        return emit.total(size, dims_of(x, dims), keepdim)
    powers = op.power(size, emit.like(order, x))
    return op.power(emit.total(powers, dims_of(x, dims), keepdim), emit.like(1 / order, x))


@check(aten.linalg_vector_norm.default)
def _norm_order(node: fx.Node, x: fx.Node, order: float, *rest: Any) -> str:
    return "the norm of order 0 is not supported" if order == 0 else ""


@rule(aten.logsumexp.default)
def logsumexp(ctx: Context, node: fx.Node, x: Value, dims: Any, keepdim: bool) -> Value:
    top = _reduced(op.reduce_max, x, dims, True)
    sums = emit.total(op.exp(emit.sub(x, top)), dims_of(x, dims), keepdim=True)
    return emit.reshape(emit.add(op.log(sums), top), tuple(node.meta["val"].shape))


# ---------------------------------------------------------------- extremes


@rule(aten.amax.default)
def amax(ctx: Context, node: fx.Node, x: Value, dims: Any, keepdim: bool) -> Value:
    return _reduced(op.reduce_max, x, dims, keepdim)


@rule(aten.amin.default)
def amin(ctx: Context, node: fx.Node, x: Value, dims: Any, keepdim: bool) -> Value:
    return _reduced(op.reduce_min, x, dims, keepdim)


@rule(aten.max.default)
def max_all(ctx: Context, node: fx.Node, x: Value) -> Value:
    return _reduced(op.reduce_max, x, None, False)


@rule(aten.min.default)
def min_all(ctx: Context, node: fx.Node, x: Value) -> Value:
    return _reduced(op.reduce_min, x, None, False)


def _top(x: Value, k: int, dim: int, largest: bool) -> tuple[Value, Value]:
    numbers = emit.convert(x, torch.int32) if x.dtype == torch.bool else x  # ONNX ranks numbers only
    values, indices = op.top_k(numbers, k, emit.axis(dim, emit.rank(x)), largest)
    return emit.convert(values, x.dtype), indices


def _extreme(x: Value, dim: int | None, keepdim: bool, largest: bool) -> tuple[Value, Value]:
    """The extreme value along `dim`, and the index of the first element that has it."""
    ndim = emit.rank(x)
    if dim is None:
        values, indices = _top(emit.reshape(x, [-1]), 1, 0, largest)
        size = [1] * ndim if keepdim else []
    else:
        if ndim == 0:
            return x, op.ints(0)
        values, indices = _top(x, 1, dim, largest)
        size = list(emit.shape(values))
        if not keepdim:
            del size[dim]
    return emit.reshape(values, size), emit.reshape(indices, size)


@rule(aten.max.dim)
def max_dim(ctx: Context, node: fx.Node, x: Value, dim: int, keepdim: bool) -> tuple[Value, Value]:
    return _extreme(x, dim, keepdim, largest=True)


@rule(aten.min.dim)
def min_dim(ctx: Context, node: fx.Node, x: Value, dim: int, keepdim: bool) -> tuple[Value, Value]:
    return _extreme(x, dim, keepdim, largest=False)


@rule(aten.argmax.default)
def argmax(ctx: Context, node: fx.Node, x: Value, dim: int | None, keepdim: bool) -> Value:
    return _extreme(x, dim, keepdim, largest=True)[1]


@rule(aten.argmin.default)
def argmin(ctx: Context, node: fx.Node, x: Value, dim: int | None, keepdim: bool) -> Value:
    return _extreme(x, dim, keepdim, largest=False)[1]


@rule(aten.topk.default)
def topk(
    ctx: Context, node: fx.Node, x: Value, k: int, dim: int, largest: bool, sort: bool
) -> tuple[Value, Value]:
    return _top(x, k, dim, largest)


# ---------------------------------------------------------------- logic, scans


@rule(aten.any.default)
def any_all(ctx: Context, node: fx.Node, x: Value) -> Value:
    return _reduced(op.reduce_max, emit.convert(x, torch.bool), None, False)


@rule(aten.any.dim, aten.any.dims)
def any_dims(ctx: Context, node: fx.Node, x: Value, dims: Any, keepdim: bool) -> Value:
    return _reduced(op.reduce_max, emit.convert(x, torch.bool), dims, keepdim)


@rule(aten.all.default)
def all_all(ctx: Context, node: fx.Node, x: Value) -> Value:
    return _reduced(op.reduce_min, emit.convert(x, torch.bool), None, False)


@rule(aten.all.dim, aten.all.dims)
def all_dims(ctx: Context, node: fx.Node, x: Value, dims: Any, keepdim: bool) -> Value:
    return _reduced(op.reduce_min, emit.convert(x, torch.bool), dims, keepdim)


@rule(aten.cumsum.default)
def cumsum(ctx: Context, node: fx.Node, x: Value, dim: int, dtype: Any) -> Value:
    x = emit.convert(x, _out_dtype(node))
    return op.cumulative_sum(x, emit.axis(dim, emit.rank(x))) if emit.rank(x) else x
