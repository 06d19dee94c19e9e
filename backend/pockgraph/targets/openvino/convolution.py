"""How OpenVINO computes the gradient of a convolution's input, and of its weight, the fastest.

Activations stand channels-last in the memory of OpenVINO's CPU plugin, whatever the logical order is.
So products take them as matrices [N*out, C]: that transpose is free there.

Each strategy for the weight is one function `(x, dy, g) -> dw`; `choose` takes the cheapest by a small model
of its cost. The constants were fitted to times on one core of a server CPU (AVX-512, float32); they
only have to rank the strategies. A product for each position in the kernel is none of them: next to one
product with all positions side by side it has more to move and no less to multiply, whatever the shape.

Shapes in comments: x [N, I, *in], dw [O, I/G, *k], dy [N, O, *out].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..shared import weight_gradient as shared
from ..shared.convolution import by_turned_kernel, is_convolution
from ..shared.geometry import Geometry
from .emitter import Value, emit, is_constant

Strategy = Callable[[Value, Value, Geometry], Value]
Shape = tuple[int, ...]


def _as_matrix(x: Value) -> Value:
    """[N, C, *size] -> [N*size, C]."""
    last = emit.transpose(x, [0, *range(2, emit.rank(x)), 1])
    return emit.reshape(last, [math.prod(emit.shape(last)[:-1]), emit.shape(x)[1]])


# ---------------------------------------------------------------- gradient of the input


def transposed_convolution(x: Value, weight: Value, g: Geometry, out: Sequence[int]) -> Value:
    """x [N, I, *in], weight [I, O/G, *k] -> [N, O, *out]."""
    size = emit.shape(x)[2:]
    if is_convolution(g, size, out):
        if g.groups > 1 or is_constant(weight):
            return by_turned_kernel(emit, x, weight, g, out)
        # A trained weight would have to be turned around in every step.
        if all(k == 1 for k in g.kernel) and tuple(out) == size:
            return by_product(x, weight)
    return emit.convolve_transposed(x, g, weight, out)


def by_product(x: Value, weight: Value) -> Value:
    """Stride 1, a kernel of one element."""
    n, _, *size = emit.shape(x)
    y = emit.matmul(_as_matrix(x), emit.reshape(weight, emit.shape(weight)[:2]))
    last = emit.reshape(y, [n, *size, emit.shape(y)[1]])
    return emit.transpose(last, [0, len(size) + 1, *range(1, len(size) + 1)])


# ---------------------------------------------------------------- choosing how to get the weight's

FLOPS_PER_S = 85e9
BYTES_PER_S = 10e9
LANES = 16  # narrower matrices are padded to this width
DENSE_OUT = 20  # px: below, a convolution with dy as its kernel runs badly
PER_CONVOLUTION_S = 1e-5


def weight_gradient(x: Value, dy: Value, g: Geometry) -> Value:
    """dw of y = conv(x, w) by the strategy that should be fastest."""
    return choose(emit.shape(x), emit.shape(dy), g)(x, dy, g)


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
    if strategy is by_im2col:
        return product(o, k * i) + passes(2 * k * rows * i, rows * o // 2, 2 * k * o * i)
    if strategy is by_convolution:
        slow = 1.0 if min(dy[2:]) >= DENSE_OUT and set(g.stride) == {1} else 2.0
        return slow * k * product(o, max(i, LANES)) + passes(3 * math.prod(x), 3 * rows * o)
    if strategy is by_samples:
        return passes(4 * math.prod(x), 4 * rows * o) + dy[0] * PER_CONVOLUTION_S
    return k * passes(5 * rows * i)


# ---------------------------------------------------------------- matrix products


def by_matmul(x: Value, dy: Value, g: Geometry) -> Value:
    """Pointwise kernels: dw = dyᵀ x, the strides taken out of x first."""
    x = shared.shifted(emit, x, dy, g)[0]
    o, i = emit.shape(dy)[1], emit.shape(x)[1]
    if i < min(o, 3 * LANES):
        # The transposed operand is copied: let it be the one that is much narrower.
        dw = emit.swap(emit.matmul(_as_matrix(x), _as_matrix(dy), transpose_a=True))
    else:
        dw = emit.matmul(_as_matrix(dy), _as_matrix(x), transpose_a=True)
    return emit.reshape(dw, [o, i, *g.kernel])


def by_im2col(x: Value, dy: Value, g: Geometry) -> Value:
    """One product with all positions side by side, [N*out, k*I]."""

    def product(parts: Sequence[Value]) -> Value:
        columns = emit.concat([_as_matrix(part) for part in parts], 1)
        return emit.matmul(_as_matrix(dy), columns, transpose_a=True)

    return shared.by_im2col(emit, x, dy, g, product)


def by_grouped_matmuls(x: Value, dy: Value, g: Geometry) -> Value:
    """Groups as the batch of one product for every position in the kernel."""

    def grouped(v: Value) -> Value:  # [N, C, *size] -> [G, C/G, N*size]
        n, c = emit.shape(v)[:2]
        v = emit.reshape(v, [n, g.groups, c // g.groups, -1])
        return emit.reshape(emit.transpose(v, [1, 2, 0, 3]), [g.groups, c // g.groups, -1])

    left = grouped(dy)
    return shared.by_position(emit, x, dy, g, lambda part: emit.matmul(left, grouped(part), transpose_b=True))


def by_products(x: Value, dy: Value, g: Geometry) -> Value:
    """Depthwise: as many sums of products as the kernel has positions."""
    return shared.by_products(emit, x, dy, g)


# ---------------------------------------------------------------- convolutions with dy as the kernel


def by_convolution(x: Value, dy: Value, g: Geometry) -> Value:
    """x as [I, N, *in] convolved with dy as [O, N, *out]."""
    dw = shared.convolved(emit, emit.swap(x, 0, 1), emit.swap(dy, 0, 1), g, 1)  # [I, O, *k]
    return emit.swap(dw, 0, 1)


MAX_CONVOLUTIONS = 16


def by_samples(x: Value, dy: Value, g: Geometry) -> Value:
    """Depthwise: samples and channels convolved with dy one by one.

    A few samples at a time: with all of them the rows of the channels-last input get so long that
    every element of a kernel lies on another page.
    """
    n, c = emit.shape(x)[:2]
    parts = min(n, MAX_CONVOLUTIONS)
    sizes = [n // parts + (p < n % parts) for p in range(parts)]
    pairs = zip(emit.split(x, sizes, 0), emit.split(dy, sizes, 0))
    sums = [emit.sum(shared.of_samples(emit, *pair, g), [0], keepdim=True) for pair in pairs]
    return emit.reshape(emit.sum(emit.concat(sums, 0), [0]), [c, 1, *g.kernel])


STRATEGIES: tuple[Strategy, ...] = (
    by_matmul,
    by_im2col,
    by_grouped_matmuls,
    by_convolution,
    by_samples,
    by_products,
)
