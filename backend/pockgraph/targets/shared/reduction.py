"""Products, reductions, and what scans or ranks along a dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ...ir.graph import aten
from .shared_rules import out_dtype, out_shape, rule


@rule(aten.mm.default, aten.bmm.default)
def product(emit: Any, node: fx.Node, a: Any, b: Any) -> Any:
    """Transposes stay nodes of their own: runtimes fold them into their product."""
    return emit.matmul(a, b)


# What is reduced whole, and along dimensions.
REDUCTIONS: dict[str, tuple[Any, ...]] = {
    "sum": (aten.sum.default, aten.sum.dim_IntList),
    "mean": (aten.mean.default, aten.mean.dim),
    "prod": (aten.prod.default, aten.prod.dim_int),
    "max": (aten.max.default, aten.amax.default),
    "min": (aten.min.default, aten.amin.default),
    "logical_or": (aten.any.default, aten.any.dim, aten.any.dims),
    "logical_and": (aten.all.default, aten.all.dim, aten.all.dims),
}

# What ATen says of no elements; it refuses to take their largest or smallest.
EMPTY = {"sum": 0, "mean": math.nan, "prod": 1, "logical_or": False, "logical_and": True}


def reduced(
    emit: Any, node: fx.Node, kind: str, x: Any, dims: Sequence[int] | int | None, keepdim: bool
) -> Any:
    """No dimension stands for all, as in ATen."""
    if out_dtype(node) == torch.bool:  # the extremes of booleans, which runtimes take for no numbers
        kind = {"max": "logical_or", "min": "logical_and"}.get(kind, kind)
    x = emit.convert(x, torch.bool if kind.startswith("logical") else out_dtype(node))
    ndim = emit.rank(x)
    dims = [dims] if isinstance(dims, int) else dims
    dims = [emit.axis(d, ndim) for d in dims] if dims else list(range(ndim))
    if any(emit.shape(x)[d] == 0 for d in dims):  # runtimes begin some of these with other values
        return emit.full(EMPTY[kind], out_shape(node), out_dtype(node))
    if kind in ("sum", "mean"):
        return {"sum": emit.sum, "mean": emit.mean}[kind](x, dims, keepdim)
    return emit.reduced(kind, x, dims, keepdim) if ndim else x


for _kind, (_whole, *_along) in REDUCTIONS.items():
    rule(_whole)(lambda emit, node, x, *dtype, k=_kind: reduced(emit, node, k, x, None, False))
    rule(*_along)(
        lambda emit, node, x, dims, keepdim, *dtype, k=_kind: reduced(emit, node, k, x, dims, keepdim)
    )


@rule(aten.topk.default)
def topk(emit: Any, node: fx.Node, x: Any, k: int, dim: int, largest: bool, sort: bool) -> Any:
    return emit.top(x, k, emit.axis(dim, emit.rank(x)), largest)


@rule(aten.max.dim, aten.min.dim)
def extreme(emit: Any, node: fx.Node, x: Any, dim: int, keepdim: bool) -> tuple[Any, Any]:
    """The extreme value along `dim`, and the index of the first element that has it."""
    x = x if emit.rank(x) else emit.reshape(x, [1])
    values, indices = emit.top(x, 1, emit.axis(dim, emit.rank(x)), node.target is aten.max.dim)
    size = tuple(node.meta["val"][0].shape)
    return emit.reshape(values, size), emit.reshape(indices, size)


@rule(aten.cumsum.default)
def cumsum(emit: Any, node: fx.Node, x: Any, dim: int, dtype: Any) -> Any:
    x = emit.convert(x, out_dtype(node))
    return emit.native.cumsum(x, emit.axis(dim, emit.rank(x))) if emit.rank(x) else x


@rule(aten._softmax.default)
def softmax(emit: Any, node: fx.Node, x: Any, dim: int, half_to_float: bool) -> Any:
    return emit.native.softmax(emit.convert(x, out_dtype(node)), emit.axis(dim, emit.rank(x)))


@rule(aten._log_softmax.default)
def log_softmax(emit: Any, node: fx.Node, x: Any, dim: int, half_to_float: bool) -> Any:
    return emit.native.log_softmax(emit.convert(x, out_dtype(node)), emit.axis(dim, emit.rank(x)))
