"""The gradient of a convolution's weight, which OpenVINO has no operator for.

Each strategy below is one function `(x, dy, g) -> dw`; `choose` takes the cheapest by a small model of
its cost. The constants were fitted to times on one core of a server CPU (AVX-512, float32); they
only have to rank the strategies.

Activations stand channels-last in the memory of OpenVINO's CPU plugin, whatever the logical order is.
So a product over batch and space takes them as matrices [N*out, C]: that transpose is free there.

Shapes in comments: x [N, I, *in], dw [O, I/G, *k], dy [N, O, *out].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from ..shared.convolution import Geometry
from . import emit
from .emit import Value, op
from .ops_convolution import convolve, transposed_convolution, unpadded
from .rules import Context, rule

aten = torch.ops.aten

Strategy = Callable[[Value, Value, Geometry], Value]
Shape = tuple[int, ...]


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
    """dw of y = conv(x, w) by the strategy that should be fastest."""
    return choose(emit.shape(x), emit.shape(dy), g)(x, dy, g)


# ---------------------------------------------------------------- choosing

FLOPS_PER_S = 85e9
BYTES_PER_S = 10e9
LANES = 16  # narrower matrices are padded to this width
DENSE_OUT = 20  # px: below, a convolution with dy as its kernel runs badly
PER_CONVOLUTION_S = 1e-5


def choose(x: Shape, dy: Shape, g: Geometry) -> Strategy:
    """The applicable strategy of the least estimated cost."""
    able = [s for s in STRATEGIES if applies(s, x, dy, g)]
    return min(able, key=lambda s: estimate_s(s, x, dy, g))


def applies(strategy: Strategy, x: Shape, dy: Shape, g: Geometry) -> bool:
    """Whether a strategy is right for a shape, fast or not."""
    depthwise = g.groups == x[1] == dy[1]
    pointwise = all(k == 1 for k in g.kernel)
    if strategy in (by_samples, by_products):
        return depthwise
    if strategy is by_grouped_matmuls:
        return g.groups > 1 and not depthwise
    return g.groups == 1 and (strategy is not by_matmul or pointwise)


def estimate_s(strategy: Strategy, x: Shape, dy: Shape, g: Geometry) -> float:
    """Seconds, roughly: arithmetic at the speed of a full matrix product, and passes over memory."""
    i, o, k = x[1], dy[1], math.prod(g.kernel)
    rows = dy[0] * math.prod(dy[2:])

    def product(m: int, n: int) -> float:
        return 2 * rows * m * max(n, LANES) / FLOPS_PER_S

    def passes(*elements: int) -> float:
        return 4 * sum(elements) / BYTES_PER_S

    if strategy is by_matmul:
        return product(o, i)
    if strategy is by_matmuls:
        return k * (product(o, i) + passes(2 * rows * i, rows * o // 2, 3 * o * i))
    if strategy is by_im2col:
        return product(o, k * i) + passes(2 * k * rows * i, rows * o // 2, 2 * k * o * i)
    if strategy is by_convolution:
        slow = 1.0 if min(dy[2:]) >= DENSE_OUT and set(g.stride) == {1} else 2.0
        return slow * k * product(o, max(i, LANES)) + passes(3 * math.prod(x), 3 * rows * o)
    if strategy is by_samples:
        return passes(4 * math.prod(x), 4 * rows * o) + dy[0] * PER_CONVOLUTION_S
    return k * passes(5 * rows * i)


# ---------------------------------------------------------------- matrix products


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


def _as_matrix(x: Value) -> Value:
    """[N, C, *size] -> [N*size, C]."""
    last = emit.transpose(x, [0, *range(2, emit.rank(x)), 1])
    return emit.reshape(last, [math.prod(emit.shape(last)[:-1]), emit.shape(x)[1]])


def by_matmul(x: Value, dy: Value, g: Geometry) -> Value:
    """Pointwise kernels: dw = dyᵀ x, the strides taken out of x first."""
    x = _shifted(x, dy, g)[0]
    o, i = emit.shape(dy)[1], emit.shape(x)[1]
    if i < min(o, 3 * LANES):
        # The transposed operand is copied: let it be the one that is much narrower.
        dw = emit.swap(emit.matmul(_as_matrix(x), _as_matrix(dy), transpose_a=True))
    else:
        dw = emit.matmul(_as_matrix(dy), _as_matrix(x), transpose_a=True)
    return emit.reshape(dw, [o, i, *g.kernel])


def by_matmuls(x: Value, dy: Value, g: Geometry) -> Value:
    """One product for every position in the kernel; one slice of x at a time is in memory."""
    left = _as_matrix(dy)
    parts = [emit.matmul(left, _as_matrix(part), transpose_a=True) for part in _shifted(x, dy, g)]
    o, i = emit.shape(parts[0])
    stacked = emit.concat([emit.unsqueeze(p, [2]) for p in parts], 2)  # [O, I, k]
    return emit.reshape(stacked, [o, i, *g.kernel])


def by_im2col(x: Value, dy: Value, g: Geometry) -> Value:
    """One product with all positions side by side."""
    columns = emit.concat([_as_matrix(part) for part in _shifted(x, dy, g)], 1)  # [N*out, k*I]
    dw = emit.matmul(_as_matrix(dy), columns, transpose_a=True)  # [O, k*I]
    o, i = emit.shape(dy)[1], emit.shape(x)[1]
    return emit.reshape(emit.swap(emit.reshape(dw, [o, -1, i])), [o, i, *g.kernel])


def by_grouped_matmuls(x: Value, dy: Value, g: Geometry) -> Value:
    """Groups as the batch of one product for every position in the kernel."""

    def grouped(v: Value) -> Value:  # [N, C, *size] -> [G, C/G, N*size]
        n, c = emit.shape(v)[:2]
        v = emit.reshape(v, [n, g.groups, c // g.groups, -1])
        return emit.reshape(emit.transpose(v, [1, 2, 0, 3]), [g.groups, c // g.groups, -1])

    left = grouped(dy)
    parts = [emit.matmul(left, grouped(part), transpose_b=True) for part in _shifted(x, dy, g)]
    stacked = emit.concat([emit.unsqueeze(p, [3]) for p in parts], 3)  # [G, O/G, I/G, k]
    return emit.reshape(stacked, [emit.shape(dy)[1], emit.shape(x)[1] // g.groups, *g.kernel])


# ---------------------------------------------------------------- convolutions with dy as the kernel


def _turned(x: Value, dy: Value, g: Geometry, groups: int) -> Geometry:
    """The geometry of x * dy = dw: strides and dilations exchanged."""
    kernel = emit.shape(dy)[2:]
    turned = Geometry(kernel, g.dilation, g.before, g.after, g.stride, groups)
    return turned.fitted(emit.shape(x)[2:], g.kernel)


def _first(dw: Value, g: Geometry) -> Value:
    """Without what rows of x that no window reached have added behind."""
    return emit.cut_many(dw, range(2, emit.rank(dw)), [(0, k, 1) for k in g.kernel])


def by_convolution(x: Value, dy: Value, g: Geometry) -> Value:
    """x as [I, N, *in] convolved with dy as [O, N, *out]."""
    dw = convolve(emit.swap(x, 0, 1), _turned(x, dy, g, 1), emit.swap(dy, 0, 1))  # [I, O, *k]
    return emit.swap(_first(dw, g), 0, 1)


MAX_CONVOLUTIONS = 16


def by_samples(x: Value, dy: Value, g: Geometry) -> Value:
    """Depthwise: samples have no channel in common either, so N*C channels are convolved one by one.

    A few samples at a time: with all of them the rows of the channels-last input get so long that
    every element of a kernel lies on another page.
    """
    n, c = emit.shape(x)[:2]
    parts = min(n, MAX_CONVOLUTIONS)
    sizes = [n // parts + (p < n % parts) for p in range(parts)]
    sums = []
    for x_part, dy_part in zip(_split(x, sizes), _split(dy, sizes)):
        m = emit.shape(x_part)[0]
        data = emit.reshape(x_part, [1, m * c, *emit.shape(x)[2:]])
        kernel = emit.reshape(dy_part, [m * c, 1, *emit.shape(dy)[2:]])
        dw = convolve(data, _turned(x, dy, g, m * c), kernel)  # [1, m*C, *k]
        sums.append(emit.total(emit.reshape(_first(dw, g), [m, c, *g.kernel]), [0], keepdim=True))
    return emit.reshape(emit.total(emit.concat(sums, 0), [0]), [c, 1, *g.kernel])


def _split(x: Value, sizes: Sequence[int]) -> list[Value]:
    """`x` in parts along the batch."""
    return [x] if len(sizes) == 1 else op.variadic_split(x, emit.ints(0), emit.ints(list(sizes))).outputs()


def by_products(x: Value, dy: Value, g: Geometry) -> Value:
    """Depthwise: for every position in the kernel, the sum of x dy over batch and space."""
    dims = [0, *range(2, emit.rank(x))]
    sums = [emit.total(emit.mul(part, dy), dims) for part in _shifted(x, dy, g)]  # [C] each
    stacked = emit.concat([emit.unsqueeze(s, [1]) for s in sums], 1)
    return emit.reshape(stacked, [emit.shape(x)[1], 1, *g.kernel])


STRATEGIES: tuple[Strategy, ...] = (
    by_matmul,
    by_matmuls,
    by_im2col,
    by_grouped_matmuls,
    by_convolution,
    by_samples,
    by_products,
)
