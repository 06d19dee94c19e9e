"""Convolution in 1, 2 and 3 dimensions, and its gradients.

The gradient of the input comes as a transposed convolution. For the gradient of the weight there are
several ways, each a function below; `choose` picks one by shape.

Shapes in comments: x [N, I, *in], weight [O, I/G, *k], dy [N, O, *out].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from . import emit
from .emit import Value, op
from .lowering import Context, rule

aten = torch.ops.aten


@dataclass(frozen=True)
class Geometry:
    """What a convolution does to space: kernel sizes, strides, paddings, dilations; and its groups."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any, groups: int) -> Geometry:
        n = len(kernel)
        full = [tuple(v) if len(v) == n else (v[0],) * n for v in (stride, padding, dilation)]
        return cls(tuple(kernel), *full, groups)

    @property
    def pointwise(self) -> bool:
        return all(k == 1 for k in self.kernel) and not any(self.padding)

    @property
    def unit_stride(self) -> bool:
        return all(s == 1 for s in self.stride)

    @property
    def offsets(self) -> list[tuple[int, ...]]:
        """Every position in the kernel, row by row."""
        return list(itertools.product(*(range(k) for k in self.kernel)))


# ---------------------------------------------------------------- forward, and gradient of the input


@rule(aten.convolution.default)
def convolution(
    ctx: Context,
    node: fx.Node,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Value:
    g = Geometry.of(emit.shape(weight)[2:], stride, padding, dilation, groups)
    if transposed:
        out = tuple(node.meta["val"].shape)[2:]
        y = transposed_convolution(x, weight, g, out)
    else:
        y = _convolve(x, weight, g)
    return y if bias is None else emit.add(y, emit.per_channel(bias, emit.rank(y)))


def _convolve(x: Value, weight: Value, g: Geometry, pads_end: Sequence[int] | None = None) -> Value:
    pads = list(g.padding), list(g.padding if pads_end is None else pads_end)
    if g.groups == 1:
        return op.convolution(x, weight, list(g.stride), *pads, list(g.dilation)).output(0)
    o, *rest = emit.shape(weight)
    weight = emit.reshape(weight, [g.groups, o // g.groups, *rest])
    return op.group_convolution(x, weight, list(g.stride), *pads, list(g.dilation)).output(0)


def transposed_convolution(x: Value, weight: Value, g: Geometry, out: Sequence[int]) -> Value:
    """x [N, I, *in], weight [I, O/G, *k] -> [N, O, *out]."""
    before = [d * (k - 1) - p for k, p, d in zip(g.kernel, g.padding, g.dilation)]
    if g.unit_stride and min(before) >= 0:
        return _by_convolution(x, weight, g, out, before)
    return _by_backprop_data(x, weight, g, out)


def _by_convolution(x: Value, weight: Value, g: Geometry, out: Sequence[int], before: Sequence[int]) -> Value:
    """Stride 1: an ordinary convolution with the kernel turned around."""
    i, o, *kernel = emit.shape(weight)
    if g.groups == 1:
        weight = emit.swap(weight, 0, 1)
    else:
        grouped = emit.reshape(weight, [g.groups, i // g.groups, o, *kernel])
        weight = emit.reshape(emit.swap(grouped, 1, 2), [g.groups * o, i // g.groups, *kernel])
    weight = emit.flip(weight, range(2, emit.rank(weight)))
    after = [
        size - 1 + d * (k - 1) + 1 - n - b
        for size, k, d, n, b in zip(out, g.kernel, g.dilation, emit.shape(x)[2:], before)
    ]
    turned = Geometry(g.kernel, g.stride, tuple(before), g.dilation, g.groups)
    return _convolve(x, weight, turned, after)


def _by_backprop_data(x: Value, weight: Value, g: Geometry, out: Sequence[int]) -> Value:
    """OpenVINO's own transposed convolution."""
    sizes = zip(out, emit.shape(x)[2:], g.stride, g.padding, g.kernel, g.dilation)
    extra = [o - ((n - 1) * s - 2 * p + d * (k - 1) + 1) for o, n, s, p, k, d in sizes]
    # What output_padding adds behind is the same as padding less there.
    end = [p - e for p, e in zip(g.padding, extra)]
    output_padding = [max(-e, 0) for e in end]
    pads = list(g.padding), [max(e, 0) for e in end]
    if g.groups == 1:
        return op.convolution_backprop_data(
            x, weight, list(g.stride), None, *pads, list(g.dilation), output_padding=output_padding
        ).output(0)
    i, *rest = emit.shape(weight)
    weight = emit.reshape(weight, [g.groups, i // g.groups, *rest])
    return op.group_convolution_backprop_data(
        x, weight, list(g.stride), None, *pads, list(g.dilation), output_padding=output_padding
    ).output(0)


@rule(aten.convolution_backward.default)
def convolution_backward(
    ctx: Context,
    node: fx.Node,
    dy: Value,
    x: Value,
    weight: Value,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> tuple[Value | None, ...]:
    g = Geometry.of(emit.shape(weight)[2:], stride, padding, dilation, groups)
    dx = dw = db = None
    if mask[0]:
        dx = (
            _convolve(dy, weight, g)
            if transposed
            else transposed_convolution(dy, weight, g, emit.shape(x)[2:])
        )
    if mask[1]:
        # A transposed convolution takes dy to x: its weight gradient has the two exchanged.
        dw = weight_gradient(dy, x, g) if transposed else weight_gradient(x, dy, g)
    if mask[2]:
        db = emit.total(dy, [0, *range(2, emit.rank(dy))])
    return dx, dw, db


# ---------------------------------------------------------------- gradient of the weight


def weight_gradient(x: Value, dy: Value, g: Geometry) -> Value:
    """dw [O, I/G, *k] of y = conv(x, w), by the strategy that should be fastest."""
    return choose(emit.shape(x), emit.shape(dy), g)(x, dy, g)


Strategy = Callable[[Value, Value, Geometry], Value]


def choose(x: tuple[int, ...], dy: tuple[int, ...], g: Geometry) -> Strategy:
    if g.groups > 1:
        return by_products if g.groups == x[1] == dy[1] else by_grouped_matmuls
    if g.pointwise:
        return by_matmul
    return by_matmuls


def _shifted(x: Value, dy: Value, g: Geometry) -> list[Value]:
    """For every kernel offset, the elements [N, I, *out] of x that meet dy there."""
    ndim = emit.rank(x)
    dims = list(range(2, ndim))
    out = emit.shape(dy)[2:]
    need = [
        (o - 1) * s + d * (k - 1) + 1 - n - p
        for o, s, d, k, n, p in zip(out, g.stride, g.dilation, g.kernel, emit.shape(x)[2:], g.padding)
    ]
    x = emit.pad(x, [0, 0, *g.padding], [0, 0, *(max(n, 0) for n in need)])
    parts = []
    for offset in g.offsets:
        start = [i * d for i, d in zip(offset, g.dilation)]
        spans = [(b, b + (o - 1) * s + 1, s) for b, o, s in zip(start, out, g.stride)]
        parts.append(emit.cut_many(x, dims, spans))
    return parts


def _as_matrix(x: Value) -> Value:
    """[N, C, *size] -> [N size, C]."""
    ndim = emit.rank(x)
    last = emit.transpose(x, [0, *range(2, ndim), 1])
    return emit.reshape(last, [math.prod(emit.shape(last)[:-1]), emit.shape(x)[1]])


def by_matmul(x: Value, dy: Value, g: Geometry) -> Value:
    """Pointwise kernels: dw = dyᵀ x, the strides taken out of x first."""
    x = _shifted(x, dy, g)[0]
    dw = emit.matmul(_as_matrix(dy), _as_matrix(x), transpose_a=True)  # [O, I]
    return emit.reshape(dw, [*emit.shape(dw), *g.kernel])


def by_matmuls(x: Value, dy: Value, g: Geometry) -> Value:
    """One product for every kernel offset."""
    left = _as_matrix(dy)
    parts = [emit.matmul(left, _as_matrix(part), transpose_a=True) for part in _shifted(x, dy, g)]
    size = emit.shape(parts[0])
    stacked = emit.concat([emit.unsqueeze(p, [2]) for p in parts], 2)  # [O, I, k]
    return emit.reshape(stacked, [*size, *g.kernel])


def by_im2col(x: Value, dy: Value, g: Geometry) -> Value:
    """One product with all the offsets side by side."""
    columns = emit.concat([_as_matrix(part) for part in _shifted(x, dy, g)], 1)  # [N out, k I]
    dw = emit.matmul(_as_matrix(dy), columns, transpose_a=True)  # [O, k I]
    o, i = emit.shape(dy)[1], emit.shape(x)[1]
    return emit.reshape(emit.swap(emit.reshape(dw, [o, len(g.offsets), i])), [o, i, *g.kernel])


def by_im2row(x: Value, dy: Value, g: Geometry) -> Value:
    """Like `by_im2col`, with the small matrix turned: [k I, N out] times [N out, O]."""
    columns = emit.concat([_as_matrix(part) for part in _shifted(x, dy, g)], 1)
    dw = emit.matmul(columns, _as_matrix(dy), transpose_a=True)  # [k I, O]
    o, i = emit.shape(dy)[1], emit.shape(x)[1]
    return emit.reshape(
        emit.transpose(emit.reshape(dw, [len(g.offsets), i, o]), [2, 1, 0]), [o, i, *g.kernel]
    )


def by_convolution(x: Value, dy: Value, g: Geometry) -> Value:
    """x [I, N, *in] convolved with dy [O, N, *out] as the kernel; strides and dilations exchanged."""
    turned = Geometry(emit.shape(dy)[2:], g.dilation, g.padding, g.stride, 1)
    dw = _convolve(emit.swap(x, 0, 1), emit.swap(dy, 0, 1), turned)  # [I, O, *at least k]
    dw = emit.cut_many(dw, range(2, emit.rank(dw)), [(0, k, 1) for k in g.kernel])
    return emit.swap(dw, 0, 1)


def by_products(x: Value, dy: Value, g: Geometry) -> Value:
    """Depthwise: for every kernel offset, the sum of x dy over batch and space."""
    dims = [0, *range(2, emit.rank(x))]
    sums = [emit.total(emit.mul(part, dy), dims) for part in _shifted(x, dy, g)]  # [C] each
    stacked = emit.concat([emit.unsqueeze(s, [1]) for s in sums], 1)
    return emit.reshape(stacked, [emit.shape(x)[1], 1, *g.kernel])


def by_grouped_matmuls(x: Value, dy: Value, g: Geometry) -> Value:
    """Groups as the batch of one matrix product for every kernel offset."""

    def grouped(v: Value) -> Value:  # [N, C, *size] -> [G, C/G, N size]
        n, c = emit.shape(v)[:2]
        v = emit.reshape(v, [n, g.groups, c // g.groups, -1])
        v = emit.transpose(v, [1, 2, 0, 3])
        return emit.reshape(v, [g.groups, c // g.groups, -1])

    left = grouped(dy)
    parts = [emit.matmul(left, grouped(part), transpose_b=True) for part in _shifted(x, dy, g)]
    stacked = emit.concat([emit.unsqueeze(p, [3]) for p in parts], 3)  # [G, O/G, I/G, k]
    return emit.reshape(stacked, [emit.shape(dy)[1], emit.shape(x)[1] // g.groups, *g.kernel])


STRATEGIES: tuple[Strategy, ...] = (
    by_matmul,
    by_matmuls,
    by_im2col,
    by_im2row,
    by_convolution,
    by_products,
    by_grouped_matmuls,
)


def applies(strategy: Strategy, x: tuple[int, ...], dy: tuple[int, ...], g: Geometry) -> bool:
    """Whether a strategy is right for a shape, fast or not."""
    if strategy is by_grouped_matmuls:
        return True
    if strategy is by_products:
        return g.groups == x[1] == dy[1]
    return g.groups == 1 and (strategy is not by_matmul or all(k == 1 for k in g.kernel))
