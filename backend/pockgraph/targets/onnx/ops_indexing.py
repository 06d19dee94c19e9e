"""Embeddings, gathers and scatters.

Advanced indexing is done on a matrix: the indexed dimensions are moved to the front and flattened
into rows, the index tensors become one row number each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from . import emit, op
from .rules import Context, check, rule
from .value import Value

aten = torch.ops.aten


def _gather(x: Value, index: Value, dim: int) -> Value:
    return op.gather(x, index, emit.axis(dim, emit.rank(x)))


def _scatter_rows(x: Value, rows: Value, updates: Value, accumulate: bool) -> Value:
    """x [P, R] with `updates` [K, R] put (or added) at the row numbers `rows` [K]."""
    index = emit.unsqueeze(rows, [1])
    if not accumulate:
        return op.scatter_nd(x, index, updates)
    # Not ScatterND: ONNX Runtime's adds in parallel, and loses what two threads add to one row.
    return op.scatter_elements(x, emit.broadcast(index, emit.shape(updates)), updates, 0, accumulate)


# ---------------------------------------------------------------- embeddings


@rule(aten.embedding.default)
def embedding(
    ctx: Context, node: fx.Node, weight: Value, index: Value, padding_idx: int, scale: bool, sparse: bool
) -> Value:
    return _gather(weight, index, 0)


@rule(aten.embedding_dense_backward.default)
def embedding_backward(
    ctx: Context, node: fx.Node, dy: Value, index: Value, rows: int, padding_idx: int, scale: bool
) -> Value:
    width = emit.shape(dy)[-1]
    count = math.prod(emit.shape(index))
    dy, index = emit.reshape(dy, [count, width]), emit.reshape(index, [count])
    if padding_idx >= 0:
        kept = op.not_equal(index, emit.like(padding_idx, index))
        dy = emit.mul(dy, emit.convert(emit.unsqueeze(kept, [1]), emit.dtype(dy)))
    return _scatter_rows(emit.full(0, [rows, width], emit.dtype(dy)), index, dy, accumulate=True)


@check(aten.embedding_dense_backward.default)
def _no_frequency_scale(node: fx.Node, *args: Any) -> str:
    return "scale_grad_by_freq is not supported" if args[4] else ""


# ---------------------------------------------------------------- along one dimension


@rule(aten.index_select.default)
def index_select(ctx: Context, node: fx.Node, x: Value, dim: int, index: Value) -> Value:
    return emit.reshape(_gather(x, index, dim), tuple(node.meta["val"].shape))


@rule(aten.gather.default)
def gather(ctx: Context, node: fx.Node, x: Value, dim: int, index: Value, sparse_grad: bool) -> Value:
    dim = emit.axis(dim, emit.rank(x))
    for d, size in enumerate(emit.shape(index)):
        if d != dim and size < emit.shape(x)[d]:
            x = emit.cut(x, d, 0, size)
    return op.gather_elements(x, index, dim)


def _scatter(x: Value, dim: int, index: Value, source: Value, accumulate: bool) -> Value:
    for d, size in enumerate(emit.shape(index)):
        source = emit.cut(source, d, 0, size)
    dim = emit.axis(dim, emit.rank(x))
    return op.scatter_elements(x, index, source, dim, accumulate)


@rule(aten.scatter.src)
def scatter(ctx: Context, node: fx.Node, x: Value, dim: int, index: Value, source: Value) -> Value:
    return _scatter(x, dim, index, source, accumulate=False)


@rule(aten.scatter.value)
def scatter_value(ctx: Context, node: fx.Node, x: Value, dim: int, index: Value, value: complex) -> Value:
    return _scatter(x, dim, index, emit.full(value, emit.shape(index), emit.dtype(x)), accumulate=False)


@rule(aten.scatter_add.default)
def scatter_add(ctx: Context, node: fx.Node, x: Value, dim: int, index: Value, source: Value) -> Value:
    return _scatter(x, dim, index, source, accumulate=True)


@rule(aten.index_copy.default)
def index_copy(ctx: Context, node: fx.Node, x: Value, dim: int, index: Value, source: Value) -> Value:
    if emit.rank(x) == 0:
        return source
    dim = emit.axis(dim, emit.rank(x))
    matrix, restore = _as_rows(x, [dim])
    updates, _ = _as_rows(source, [dim])
    return restore(_scatter_rows(matrix, emit.reshape(index, [-1]), updates, accumulate=False))


@rule(aten.index_fill.int_Scalar)
def index_fill(ctx: Context, node: fx.Node, x: Value, dim: int, index: Value, value: complex) -> Value:
    size = list(emit.shape(x))
    if not size:
        return emit.full(value, (), emit.dtype(x))
    size[dim] = math.prod(emit.shape(index))
    places = _row_numbers(x, [dim], [index])
    return index_copy(ctx, node, x, dim, places, emit.full(value, size, emit.dtype(x)))


@rule(aten.index_add.default)
def index_add(
    ctx: Context, node: fx.Node, x: Value, dim: int, index: Value, source: Value, alpha: float
) -> Value:
    matrix, restore = _as_rows(x, [emit.axis(dim, emit.rank(x))])
    updates, _ = _as_rows(emit.scale(source, alpha), [emit.axis(dim, emit.rank(x))])
    return restore(_scatter_rows(matrix, emit.reshape(index, [-1]), updates, accumulate=True))


# ---------------------------------------------------------------- advanced indexing


def _as_rows(x: Value, dims: Sequence[int]) -> tuple[Value, Any]:
    """`x` as a matrix whose rows are numbered by `dims`, and the way back."""
    rest = [d for d in range(emit.rank(x)) if d not in dims]
    order = [*dims, *rest]
    moved = emit.transpose(x, order)
    size = emit.shape(moved)
    rows = math.prod(size[: len(dims)])

    def restore(matrix: Value) -> Value:
        back = [order.index(d) for d in range(len(order))]
        return emit.transpose(emit.reshape(matrix, size), back)

    return emit.reshape(moved, [rows, math.prod(size[len(dims) :])]), restore


def _row_numbers(x: Value, dims: Sequence[int], indices: Sequence[Value]) -> Value:
    """Row numbers [*index shape] for `_as_rows(x, dims)`; negative indices count from the end."""
    rows = None
    for dim, index in zip(dims, indices, strict=True):
        index = emit.convert(index, torch.int64)
        size = op.ints(emit.shape(x)[dim])
        index = emit.select(op.less(index, op.ints(0)), emit.add(index, size), index)
        rows = index if rows is None else emit.add(emit.mul(rows, size), index)
    assert rows is not None
    return rows


def _indexed(indices: Sequence[Value | None]) -> tuple[list[int], list[Value], int]:
    """The indexed dimensions, their indices, and where the index dimensions stand in the result."""
    dims = [d for d, index in enumerate(indices) if index is not None]
    adjacent = dims == list(range(dims[0], dims[-1] + 1))
    return dims, [i for i in indices if i is not None], dims[0] if adjacent else 0


@rule(aten.index.Tensor, aten._unsafe_index.Tensor)
def index_tensor(ctx: Context, node: fx.Node, x: Value, indices: Sequence[Value | None]) -> Value:
    dims, given, at = _indexed(indices)
    if len(dims) == 1:
        return _gather(x, given[0], dims[0])
    rows = _row_numbers(x, dims, given)
    picked = _gather(_as_rows(x, dims)[0], rows, 0)  # [*index, R]
    rest = [s for d, s in enumerate(emit.shape(x)) if d not in dims]
    n = emit.rank(rows)
    picked = emit.reshape(picked, [*emit.shape(rows), *rest])
    order = [*range(n, n + at), *range(n), *range(n + at, n + len(rest))]
    return emit.transpose(picked, order)


@rule(aten.index_put.default, aten._unsafe_index_put.default)
def index_put(
    ctx: Context,
    node: fx.Node,
    x: Value,
    indices: Sequence[Value | None],
    values: Value,
    accumulate: bool,
) -> Value:
    dims, given, at = _indexed(indices)
    rows = _row_numbers(x, dims, given)
    rest = [s for d, s in enumerate(emit.shape(x)) if d not in dims]
    n = emit.rank(rows)
    values = emit.broadcast(values, [*rest[:at], *emit.shape(rows), *rest[at:]])
    values = emit.transpose(values, [*range(at, at + n), *range(at), *range(at + n, n + len(rest))])
    values = emit.reshape(values, [math.prod(emit.shape(rows)), math.prod(rest)])
    matrix, restore = _as_rows(x, dims)
    return restore(_scatter_rows(matrix, emit.reshape(rows, [-1]), values, accumulate))


@check(aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten._unsafe_index_put.default)
def _no_masks(node: fx.Node, x: fx.Node, indices: Sequence[fx.Node | None], *rest: Any) -> str:
    if any(i is not None and i.meta["val"].dtype in (torch.bool, torch.uint8) for i in indices):
        return "a boolean mask as index makes shapes depend on data; use torch.where"
    return ""
