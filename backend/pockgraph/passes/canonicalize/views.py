"""Views as few operators: `permute`, `reshape`, `slice`, `cat`."""

from __future__ import annotations

from typing import Any

from torch import fx

from ...ir.graph import Builder, aten
from .rule_table import rule


@rule(aten.detach.default, aten.alias.default, aten.lift_fresh_copy.default)
def _identity(b: Builder, node: fx.Node) -> Any:
    return node.args[0]


@rule(aten.view.default, aten._unsafe_view.default, aten.reshape.default)
def _reshape(b: Builder, node: fx.Node) -> Any:
    x: Any = node.args[0]
    shape = list(node.meta["val"].shape)
    return x if shape == list(x.meta["val"].shape) else b.call(aten.reshape.default, x, shape)


@rule(aten.t.default)
def _t(b: Builder, node: fx.Node) -> Any:
    return _permute(b, node.args[0], [1, 0] if node.meta["val"].ndim == 2 else [0])


@rule(aten.transpose.int)
def _transpose(b: Builder, node: fx.Node) -> Any:
    x, i, j = node.args
    dims = list(range(node.meta["val"].ndim))
    dims[i], dims[j] = dims[j], dims[i]  # pyright: ignore
    return _permute(b, x, dims)


@rule(aten.permute.default)
def _permute_again(b: Builder, node: fx.Node) -> Any:
    ndim = node.meta["val"].ndim
    return _permute(b, node.args[0], [d % ndim for d in node.args[1]])  # pyright: ignore


def _permute(b: Builder, x: Any, dims: list[int]) -> fx.Node:
    """A permute, merged with one right below it; nothing at all when it is the identity."""
    if x.target is aten.permute.default:
        x, dims = x.args[0], [x.args[1][d] for d in dims]
    return x if dims == list(range(len(dims))) else b.call(aten.permute.default, x, dims)


@rule(aten.diagonal.default)
def _diagonal(b: Builder, node: fx.Node) -> Any:
    x, *where = node.args
    order, flat, span = _in_a_row(list(x.meta["val"].shape), *where)  # pyright: ignore
    rows = b.call(aten.reshape.default, _permute(b, x, order), flat)
    return b.call(aten.slice.Tensor, rows, len(flat) - 1, *span)


@rule(aten.diagonal_backward.default)
def _diagonal_backward(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    dy, size, *where = args
    order, flat, span = _in_a_row(list(size), *where)
    rows = b.call(aten.slice_backward.default, dy, flat, len(flat) - 1, *span)
    moved = b.call(aten.reshape.default, rows, [size[d] for d in order])
    return _permute(b, moved, [order.index(d) for d in range(len(order))])


@rule(aten.diagonal_scatter.default)
def _diagonal_scatter(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    x, source, *where = args
    size = list(x.meta["val"].shape)
    order, flat, span = _in_a_row(size, *where)
    rows = b.call(aten.reshape.default, _permute(b, x, order), flat)
    put = b.call(aten.slice_scatter.default, rows, source, len(flat) - 1, *span)
    moved = b.call(aten.reshape.default, put, [size[d] for d in order])
    return _permute(b, moved, [order.index(d) for d in range(len(order))])


def _in_a_row(
    size: list[int], offset: int = 0, first: int = 0, second: int = 1
) -> tuple[list[int], list[int], tuple[int, int, int]]:
    """Where a diagonal lies once the matrices it belongs to are written as rows.

    Returns:
        The order of dimensions that puts the two last; the shape with both in one; (start, end, step).
    """
    first, second = first % len(size), second % len(size)
    others = [d for d in range(len(size)) if d not in (first, second)]
    rows, columns = size[first], size[second]
    count = max(0, min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns))
    start = min(offset if offset >= 0 else -offset * columns, rows * columns)
    end = start + (count - 1) * (columns + 1) + 1 if count else start
    return [*others, first, second], [*(size[d] for d in others), rows * columns], (start, end, columns + 1)


@rule(aten.select_scatter.default)
def _select_scatter(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    x, source, dim, index = args
    dim, index = dim % x.meta["val"].ndim, index % x.meta["val"].shape[dim]
    return _put(b, x, b.call(aten.unsqueeze.default, source, dim), dim, index)


@rule(aten.slice_scatter.default)
def _slice_scatter(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    padded: Any = (*args, *(0, None, None, 1)[len(args) - 2 :])
    x, source, dim, start, end, step = padded
    dim %= x.meta["val"].ndim
    start, stop, _ = slice(start, end).indices(x.meta["val"].shape[dim])
    if step != 1 or stop <= start:
        return None
    return _put(b, x, source, dim, start)


def _put(b: Builder, x: Any, source: Any, dim: int, start: int) -> Any:
    """`x` with `source` from `start` on along `dim`."""
    size, length = x.meta["val"].shape[dim], source.meta["val"].shape[dim]
    if source.meta["val"].dtype != x.meta["val"].dtype:
        source = b.call(aten._to_copy.default, source, dtype=x.meta["val"].dtype)
    parts = [source]
    if start:
        parts.insert(0, b.call(aten.slice.Tensor, x, dim, 0, start))
    if start + length < size:
        parts.append(b.call(aten.slice.Tensor, x, dim, start + length, size))
    return b.call(aten.cat.default, parts, dim) if len(parts) > 1 else source
