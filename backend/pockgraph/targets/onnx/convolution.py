"""How ONNX Runtime computes the gradient of a convolution's input, and of its weight, the fastest.

Its `ConvTranspose` takes two to ten times as long as its `Conv` for the same arithmetic: with stride 1 the
gradient of the input is a `Conv` with the kernel turned around.

The gradient of the weight is a sum of products over batch and space, one for each position in the kernel.
Measured with ONNX Runtime 1.32 on one core of a server CPU (float32): for dense kernels a convolution with
dy as its kernel takes 1.2 to 2.6 times as long, and so does unfolding all positions, except of an input with
few channels. Of a depthwise kernel with strides that convolution is the fastest, two to four times.

Shapes in comments: x [N, I, *in], dw [O, I/G, *k], dy [N, O, *out].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..shared import weight_gradient as shared
from ..shared.convolution import by_turned_kernel, is_convolution
from ..shared.geometry import Geometry
from .emitter import emit
from .value import Value

SMALL = 32  # px; above, `by_rows` has too much to multiply, and to hold
NARROW = 16  # channels; below, one product has too little to do to pay for its call


def transposed_convolution(x: Value, weight: Value, g: Geometry, out: Sequence[int]) -> Value:
    """x [N, I, *in], weight [I, O/G, *k] -> [N, O, *out]."""
    if is_convolution(g, x.shape[2:], out):
        return by_turned_kernel(emit, x, weight, g, out)
    return emit.convolve_transposed(x, g, weight, out)


def weight_gradient(x: Value, dy: Value, g: Geometry) -> Value:
    """dw of y = conv(x, w)."""
    if g.groups == 1:
        wide = x.shape[1] >= NARROW or all(k == 1 for k in g.kernel)
        return by_matmuls(x, dy, g) if wide else by_im2col(x, dy, g)
    if not g.groups == x.shape[1] == dy.shape[1]:
        return by_groups(x, dy, g)
    if any(s > 1 for s in g.stride):
        return by_samples(x, dy, g)
    small = len(g.kernel) == 2 and max(x.shape[2:]) <= SMALL
    return by_rows(x, dy, g) if small else by_products(x, dy, g)


def _outer(dy: Value, x: Value) -> Value:
    """dy [N, O, *out], x [N, I, *out] -> [O, I]: the sum of dy xᵀ over batch and space."""
    n, o, i = dy.shape[0], dy.shape[1], x.shape[1]
    pixels = math.prod(dy.shape[2:])
    if n > 1 and o * i > pixels * (o + i):
        # Less is moved by putting the samples side by side than by adding up a product for each.
        dy, x = (emit.reshape(emit.swap(v, 0, 1), [1, v.shape[1], n * pixels]) for v in (dy, x))
    else:
        dy, x = (emit.reshape(v, [n, v.shape[1], pixels]) for v in (dy, x))
    return emit.sum(emit.matmul(dy, x, transpose_b=True), [0])


def by_matmuls(x: Value, dy: Value, g: Geometry) -> Value:
    """One product for every position in the kernel; one slice of x at a time is in memory."""
    return shared.by_position(emit, x, dy, g, lambda part: _outer(dy, part))


def by_im2col(x: Value, dy: Value, g: Geometry) -> Value:
    """One product with all positions side by side."""
    return shared.by_im2col(emit, x, dy, g, lambda parts: _outer(dy, emit.concat(parts, 1)))


def by_groups(x: Value, dy: Value, g: Geometry) -> Value:
    """Samples and groups as the batch of one product for every position in the kernel."""

    def grouped(v: Value) -> Value:  # [N, C, *out] -> [N, G, C/G, out]
        n, c = v.shape[:2]
        return emit.reshape(v, [n, g.groups, c // g.groups, -1])

    left = grouped(dy)
    return shared.by_position(
        emit, x, dy, g, lambda part: emit.sum(emit.matmul(left, grouped(part), transpose_b=True), [0])
    )


def by_products(x: Value, dy: Value, g: Geometry) -> Value:
    """Depthwise: as many sums of products as the kernel has positions."""
    return shared.by_products(emit, x, dy, g)


def by_samples(x: Value, dy: Value, g: Geometry) -> Value:
    """Depthwise: samples and channels convolved with dy one by one."""
    return emit.reshape(emit.sum(shared.of_samples(emit, x, dy, g), [0]), [x.shape[1], 1, *g.kernel])


def by_rows(x: Value, dy: Value, g: Geometry) -> Value:
    """Depthwise, 2-D, stride 1: for every column in the kernel, each row of x times each row of dy, as one
    product.

    Of the products [h, H] of a column those on a diagonal belong to the same row of the kernel. That is h
    times the arithmetic needed, but in few matrix products, and without a pass over x for every row.
    """
    (n, c), (h, w) = x.shape[:2], dy.shape[2:]
    g = g.fitted(x.shape[2:], (h, w))
    (k, kw), (d, dw) = g.kernel, g.dilation
    x = emit.transpose(emit.pad(x, [0, 0, *g.before], [0, 0, *g.after]), [1, 2, 0, 3])
    rows = x.shape[1]
    columns = [emit.cut(x, 3, j * dw, j * dw + w) for j in range(kw)]
    x = emit.reshape(emit.concat(columns, 1), [c, kw * rows, n * w])
    dy = emit.reshape(emit.transpose(dy, [1, 2, 0, 3]), [c, h, n * w])
    products = emit.matmul(dy, x, transpose_b=True)  # [C, h, kw * rows]; row a of dy meets a + i * d of x
    # In rows that are longer by one, each stands one further left than in the one before: diagonals upright.
    products = emit.pad(emit.reshape(products, [c, h * kw * rows]), [0, 0], [0, h])
    sums = emit.sum(emit.reshape(products, [c, h, kw * rows + 1]), [1])
    sums = emit.reshape(emit.cut(sums, 1, 0, kw * rows), [c, kw, rows])
    dw = emit.cut(sums, 2, 0, (k - 1) * d + 1, d)  # [C, kw, k]
    return emit.reshape(emit.swap(dw), [c, 1, k, kw])
