"""The gradient of a convolution's weight, which ONNX has no operator for: sums of products over batch and
space, one for each position in the kernel.

Measured with ONNX Runtime 1.32 on one core of a server CPU (float32): for dense kernels a convolution with
dy as its kernel takes 1.2 to 2.6 times as long, and so does unfolding all positions, except of an input with
few channels. Of a depthwise kernel with strides that convolution is the fastest, two to four times.

Shapes in comments: x [N, I, *in], dw [O, I/G, *k], dy [N, O, *out].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..shared.convolution import Geometry
from . import emit
from .ops_convolution import convolve, transposed_convolution, unpadded
from .rules import Context, rule
from .value import Value

aten = torch.ops.aten

SMALL = 32  # px; above, `by_rows` has too much to multiply, and to hold
NARROW = 16  # channels; below, one product has too little to do to pay for its call


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
        size = emit.shape(x)[2:]
        dx = convolve(dy, g, weight) if transposed else transposed_convolution(dy, weight, g, size)
    if mask[1]:
        # A transposed convolution takes dy to x: its weight gradient has the two exchanged.
        dw = weight_gradient(dy, x, g) if transposed else _of_unpadded(ctx, node, x, dy, g)
    if mask[2]:
        db = emit.total(dy, [0, *range(2, emit.rank(dy))])
    return dx, dw, db


def _of_unpadded(ctx: Context, node: fx.Node, x: Value, dy: Value, g: Geometry) -> Value:
    x, g = unpadded(ctx, node.args[1], x, g)
    return weight_gradient(x, dy, g)


def weight_gradient(x: Value, dy: Value, g: Geometry) -> Value:
    """dw of y = conv(x, w)."""
    if g.groups == 1:
        wide = emit.shape(x)[1] >= NARROW or all(k == 1 for k in g.kernel)
        return by_matmuls(x, dy, g) if wide else by_im2col(x, dy, g)
    if not g.groups == emit.shape(x)[1] == emit.shape(dy)[1]:
        return by_groups(x, dy, g)
    if any(s > 1 for s in g.stride):
        return by_samples(x, dy, g)
    small = len(g.kernel) == 2 and max(emit.shape(x)[2:]) <= SMALL
    return by_rows(x, dy, g) if small else by_products(x, dy, g)


def _shifted(x: Value, dy: Value, g: Geometry) -> list[Value]:
    """For every position in the kernel, row by row, the elements [N, I, *out] of x that meet dy there."""
    dims = list(range(2, emit.rank(x)))
    out = emit.shape(dy)[2:]
    g = g.fitted(emit.shape(x)[2:], out)
    x = emit.pad(x, [0, 0, *g.before], [0, 0, *g.after])
    parts = []
    for offset in itertools.product(*(range(k) for k in g.kernel)):
        start = [i * d for i, d in zip(offset, g.dilation)]
        spans = [(b, b + (o - 1) * s + 1, s) for b, o, s in zip(start, out, g.stride)]
        parts.append(emit.cut_many(x, dims, spans))
    return parts


def _outer(dy: Value, x: Value) -> Value:
    """dy [N, O, *out], x [N, I, *out] -> [O, I]: the sum of dy xᵀ over batch and space."""
    n, o, i = emit.shape(dy)[0], emit.shape(dy)[1], emit.shape(x)[1]
    pixels = math.prod(emit.shape(dy)[2:])
    if n > 1 and o * i > pixels * (o + i):
        # Less is moved by putting the samples side by side than by adding up a product for each.
        dy, x = (emit.reshape(emit.swap(v, 0, 1), [1, emit.shape(v)[1], n * pixels]) for v in (dy, x))
    else:
        dy, x = (emit.reshape(v, [n, emit.shape(v)[1], pixels]) for v in (dy, x))
    return emit.total(emit.matmul(dy, x, transpose_b=True), [0])


def by_matmuls(x: Value, dy: Value, g: Geometry) -> Value:
    """One product for every position in the kernel; one slice of x at a time is in memory."""
    parts = [_outer(dy, part) for part in _shifted(x, dy, g)]
    stacked = emit.concat([emit.unsqueeze(p, [2]) for p in parts], 2)  # [O, I, k]
    return emit.reshape(stacked, [*emit.shape(parts[0]), *g.kernel])


def by_im2col(x: Value, dy: Value, g: Geometry) -> Value:
    """One product with all positions side by side."""
    o, i = emit.shape(dy)[1], emit.shape(x)[1]
    dw = _outer(dy, emit.concat(_shifted(x, dy, g), 1))  # [O, k*I]
    return emit.reshape(emit.swap(emit.reshape(dw, [o, -1, i])), [o, i, *g.kernel])


def by_groups(x: Value, dy: Value, g: Geometry) -> Value:
    """Samples and groups as the batch of one product for every position in the kernel."""

    def grouped(v: Value) -> Value:  # [N, C, *out] -> [N, G, C/G, out]
        n, c = emit.shape(v)[:2]
        return emit.reshape(v, [n, g.groups, c // g.groups, -1])

    left = grouped(dy)
    parts = [
        emit.total(emit.matmul(left, grouped(p), transpose_b=True), [0]) for p in _shifted(x, dy, g)
    ]  # [G, O/G, I/G] each
    stacked = emit.concat([emit.unsqueeze(p, [3]) for p in parts], 3)
    return emit.reshape(stacked, [emit.shape(dy)[1], emit.shape(x)[1] // g.groups, *g.kernel])


def by_products(x: Value, dy: Value, g: Geometry) -> Value:
    """Depthwise: for every position in the kernel, the sum of x dy over batch and space."""
    dims = [0, *range(2, emit.rank(x))]
    sums = [emit.total(emit.mul(part, dy), dims) for part in _shifted(x, dy, g)]  # [C] each
    stacked = emit.concat([emit.unsqueeze(s, [1]) for s in sums], 1)
    return emit.reshape(stacked, [emit.shape(x)[1], 1, *g.kernel])


def by_samples(x: Value, dy: Value, g: Geometry) -> Value:
    """Depthwise: samples have no channel in common either, so N*C channels are convolved with dy."""
    n, c = emit.shape(x)[:2]
    turned = Geometry(emit.shape(dy)[2:], g.dilation, g.before, g.after, g.stride, n * c)
    turned = turned.fitted(emit.shape(x)[2:], g.kernel)
    data = emit.reshape(x, [1, n * c, *emit.shape(x)[2:]])
    kernel = emit.reshape(dy, [n * c, 1, *emit.shape(dy)[2:]])
    dw = convolve(data, turned, kernel)  # [1, N*C, *k], and what rows that no window reached have added
    dw = emit.cut_many(dw, range(2, emit.rank(dw)), [(0, k, 1) for k in g.kernel])
    return emit.reshape(emit.total(emit.reshape(dw, [n, c, *g.kernel]), [0]), [c, 1, *g.kernel])


def by_rows(x: Value, dy: Value, g: Geometry) -> Value:
    """Depthwise, 2-D: for every column in the kernel, each row of x times each row of dy, as one product.

    Of the products [h, H] of a column those on a diagonal belong to the same row of the kernel. That is h
    times the arithmetic needed, but in few matrix products, and without a pass over x for every row.
    """
    (n, c), (h, w) = emit.shape(x)[:2], emit.shape(dy)[2:]
    g = g.fitted(emit.shape(x)[2:], (h, w))
    (k, kw), (s, sw), (d, dw) = g.kernel, g.stride, g.dilation
    x = emit.transpose(emit.pad(x, [0, 0, *g.before], [0, 0, *g.after]), [1, 2, 0, 3])
    rows = emit.shape(x)[1]
    columns = [emit.cut(x, 3, j * dw, j * dw + (w - 1) * sw + 1, sw) for j in range(kw)]
    x = emit.reshape(emit.concat(columns, 1), [c, kw * rows, n * w])
    dy = emit.reshape(emit.transpose(dy, [1, 2, 0, 3]), [c, h, n * w])
    products = emit.matmul(dy, x, transpose_b=True)  # [C, h, kw * rows]; row a of dy meets a * s + i * d of x
    # In rows that are s longer, each stands s further left than in the one before it: diagonals upright.
    products = emit.pad(emit.reshape(products, [c, h * kw * rows]), [0, 0], [0, h * s])
    sums = emit.total(emit.reshape(products, [c, h, kw * rows + s]), [1])
    sums = emit.reshape(emit.cut(sums, 1, 0, kw * rows), [c, kw, rows])
    dw = emit.cut(sums, 2, 0, (k - 1) * d + 1, d)  # [C, kw, k]
    return emit.reshape(emit.swap(dw), [c, 1, k, kw])
