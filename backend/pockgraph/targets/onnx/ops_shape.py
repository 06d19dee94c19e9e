"""Views, slices, joins and their backwards. Every size is known, so every shape is a constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from . import emit, op
from .rules import Context, moves, rule
from .value import Value

aten = torch.ops.aten


def _out_shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


@moves(
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten._reshape_copy.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.view_copy.default,
)
def view(ctx: Context, node: fx.Node, x: Value, *size: Any) -> Value:
    return emit.reshape(x, _out_shape(node))


@moves(aten.expand.default, aten.expand_copy.default)
def expand(ctx: Context, node: fx.Node, x: Value, *size: Any) -> Value:
    return emit.broadcast(x, _out_shape(node))


@moves(aten.permute.default)
def permute(ctx: Context, node: fx.Node, x: Value, dims: Sequence[int]) -> Value:
    return emit.transpose(x, dims)


@moves(aten.t.default)
def t(ctx: Context, node: fx.Node, x: Value) -> Value:
    return emit.swap(x) if emit.rank(x) == 2 else x


@moves(aten.transpose.int)
def transpose(ctx: Context, node: fx.Node, x: Value, a: int, b: int) -> Value:
    return emit.swap(x, a, b) if emit.rank(x) else x


# ---------------------------------------------------------------- slices


def _span(size: int, start: int | None, end: int | None) -> tuple[int, int]:
    start, stop, _ = slice(start, end).indices(size)
    return start, max(start, stop)


@moves(aten.slice.Tensor)
def slice_tensor(
    ctx: Context, node: fx.Node, x: Value, dim: int, start: int | None, end: int | None, step: int
) -> Value:
    return emit.cut(x, dim, *_span(emit.shape(x)[dim], start, end), step)


@rule(aten.narrow_copy.default)
def narrow(ctx: Context, node: fx.Node, x: Value, dim: int, start: int, length: int) -> Value:
    return emit.cut(x, dim, start, start + length)


@moves(aten.select.int)
def select(ctx: Context, node: fx.Node, x: Value, dim: int, index: int) -> Value:
    index %= emit.shape(x)[dim]
    return emit.reshape(emit.cut(x, dim, index, index + 1), _out_shape(node))


@rule(aten.slice_backward.default)
def slice_backward(
    ctx: Context, node: fx.Node, dy: Value, size: Sequence[int], dim: int, start: int, end: int, step: int
) -> Value:
    start, _ = _span(size[dim], start, end)
    return _placed(dy, size, dim, start, step)


@rule(aten.select_backward.default)
def select_backward(
    ctx: Context, node: fx.Node, dy: Value, size: Sequence[int], dim: int, index: int
) -> Value:
    dim = emit.axis(dim, len(size))
    return _placed(emit.unsqueeze(dy, [dim]), size, dim, index % size[dim], 1)


def _placed(x: Value, size: Sequence[int], dim: int, start: int, step: int) -> Value:
    """Zeros of `size` with `x` at `start, start + step, …` along `dim`."""
    dim = emit.axis(dim, len(size))
    x = emit.dilate(x, [dim], [step])
    used = min(emit.shape(x)[dim], size[dim] - start)  # the zeros behind the last one may stick out
    x = emit.cut(x, dim, 0, used)
    before, after = [0] * len(size), [0] * len(size)
    before[dim], after[dim] = start, size[dim] - start - used
    return emit.pad(x, before, after)


@rule(aten.slice_scatter.default)
def slice_scatter(
    ctx: Context,
    node: fx.Node,
    x: Value,
    source: Value,
    dim: int,
    start: int | None,
    end: int | None,
    step: int,
) -> Value:
    start, stop = _span(emit.shape(x)[dim], start, end)
    return _replaced(x, source, dim, range(start, stop, step))


@rule(aten.select_scatter.default)
def select_scatter(ctx: Context, node: fx.Node, x: Value, source: Value, dim: int, index: int) -> Value:
    index %= emit.shape(x)[dim]
    dim = emit.axis(dim, emit.rank(x))
    return _replaced(x, emit.unsqueeze(source, [dim]), dim, range(index, index + 1))


def _replaced(x: Value, source: Value, dim: int, where: range) -> Value:
    source = emit.convert(source, emit.dtype(x))
    order = [dim, *(d for d in range(emit.rank(x)) if d != dim)]
    back = [order.index(d) for d in range(emit.rank(x))]
    x, source = emit.transpose(x, order), emit.transpose(source, order)
    return emit.transpose(op.scatter_nd(x, emit.const([[i] for i in where], torch.int64), source), back)


@rule(aten.split.Tensor)
def split(ctx: Context, node: fx.Node, x: Value, size: int, dim: int) -> tuple[Value, ...]:
    return _split(x, [tuple(v.shape)[dim] for v in node.meta["val"]], dim)


@rule(aten.split_with_sizes.default)
def split_with_sizes(
    ctx: Context, node: fx.Node, x: Value, sizes: Sequence[int], dim: int
) -> tuple[Value, ...]:
    return _split(x, sizes, dim)


@rule(aten.unbind.int)
def unbind(ctx: Context, node: fx.Node, x: Value, dim: int) -> tuple[Value, ...]:
    parts = _split(x, [1] * emit.shape(x)[dim], dim)
    return tuple(emit.reshape(p, tuple(v.shape)) for p, v in zip(parts, node.meta["val"], strict=True))


def _split(x: Value, sizes: Sequence[int], dim: int) -> tuple[Value, ...]:
    if len(sizes) == 1:
        return (x,)
    return op.split(x, sizes, emit.axis(dim, emit.rank(x)))


# ---------------------------------------------------------------- joins, repeats, padding


@moves(aten.cat.default)
def cat(ctx: Context, node: fx.Node, parts: Sequence[Value], dim: int) -> Value:
    out = node.meta["val"]
    parts = [p for p in parts if emit.shape(p) != (0,) or out.ndim == 1]  # ATen skips legacy empties
    return emit.concat([emit.convert(p, out.dtype) for p in parts], emit.axis(dim, out.ndim))


@moves(aten.stack.default)
def stack(ctx: Context, node: fx.Node, parts: Sequence[Value], dim: int) -> Value:
    out = node.meta["val"]
    dim = emit.axis(dim, out.ndim)
    return emit.concat([emit.unsqueeze(emit.convert(p, out.dtype), [dim]) for p in parts], dim)


@rule(aten.repeat.default)
def repeat(ctx: Context, node: fx.Node, x: Value, times: Sequence[int]) -> Value:
    x = emit.reshape(x, [*[1] * (len(times) - emit.rank(x)), *emit.shape(x)])
    return op.tile(x, times) if times else x


@rule(aten.flip.default)
def flip(ctx: Context, node: fx.Node, x: Value, dims: Sequence[int]) -> Value:
    return emit.flip(x, dims)


@rule(aten.roll.default)
def roll(ctx: Context, node: fx.Node, x: Value, shifts: Sequence[int], dims: Sequence[int]) -> Value:
    size = emit.shape(x)
    if not dims:
        x, dims = emit.reshape(x, [-1]), [0]
    for shift, dim in zip(shifts, dims, strict=True):
        n = emit.shape(x)[dim]
        at = -shift % n
        if at:
            x = emit.concat([emit.cut(x, dim, at, n), emit.cut(x, dim, 0, at)], emit.axis(dim, emit.rank(x)))
    return emit.reshape(x, size)


@rule(aten.tril.default)
def tril(ctx: Context, node: fx.Node, x: Value, diagonal: int) -> Value:
    return _triangle(x, diagonal, upper=False)


@rule(aten.triu.default)
def triu(ctx: Context, node: fx.Node, x: Value, diagonal: int) -> Value:
    return _triangle(x, diagonal, upper=True)


def _triangle(x: Value, diagonal: int, upper: bool) -> Value:
    # ONNX Runtime has no kernel for int32.
    made = op.triangle(emit.convert(x, torch.int64) if x.dtype == torch.int32 else x, diagonal, upper)
    return emit.convert(made, x.dtype)


@rule(aten.pixel_shuffle.default)
def pixel_shuffle(ctx: Context, node: fx.Node, x: Value, factor: int) -> Value:
    *lead, c, h, w = emit.shape(x)
    n = len(lead)
    x = emit.reshape(x, [*lead, c // factor**2, factor, factor, h, w])
    return emit.reshape(emit.transpose(x, [*range(n), n, n + 3, n + 1, n + 4, n + 2]), _out_shape(node))


@rule(aten.pixel_unshuffle.default)
def pixel_unshuffle(ctx: Context, node: fx.Node, x: Value, factor: int) -> Value:
    *lead, c, h, w = emit.shape(x)
    n = len(lead)
    x = emit.reshape(x, [*lead, c, h // factor, factor, w // factor, factor])
    return emit.reshape(emit.transpose(x, [*range(n), n, n + 2, n + 4, n + 1, n + 3]), _out_shape(node))
