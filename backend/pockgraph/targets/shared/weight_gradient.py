"""The gradient of a convolution's weight, which runtimes have no operator for, in parts that targets share.

Which way is the fastest differs, and so does the matrix product that a way is made of: a target gives it.

Shapes in comments: x [N, I, *in], dw [O, I/G, *k], dy [N, O, *out].
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from .geometry import Geometry


def shifted(emit: Any, x: Any, dy: Any, g: Geometry) -> list[Any]:
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


def by_position(emit: Any, x: Any, dy: Any, g: Geometry, product: Callable[[Any], Any]) -> Any:
    """`product` of dy and one slice of x at a time: O * I/G elements for a position in the kernel."""
    parts = [product(part) for part in shifted(emit, x, dy, g)]
    last = emit.rank(parts[0])
    stacked = emit.concat([emit.unsqueeze(p, [last]) for p in parts], last)
    return emit.reshape(stacked, [emit.shape(dy)[1], emit.shape(x)[1] // g.groups, *g.kernel])


def by_products(emit: Any, x: Any, dy: Any, g: Geometry) -> Any:
    """Depthwise: for every position in the kernel, the sum of x dy over batch and space."""
    dims = [0, *range(2, emit.rank(x))]
    return by_position(emit, x, dy, g, lambda part: emit.sum(emit.mul(part, dy), dims))


def by_im2col(emit: Any, x: Any, dy: Any, g: Geometry, product: Callable[[Sequence[Any]], Any]) -> Any:
    """One `product` [O, k*I] of dy and all positions side by side."""
    o, i = emit.shape(dy)[1], emit.shape(x)[1]
    dw = product(shifted(emit, x, dy, g))
    return emit.reshape(emit.swap(emit.reshape(dw, [o, -1, i])), [o, i, *g.kernel])


def convolved(emit: Any, x: Any, dy: Any, g: Geometry, groups: int) -> Any:
    """x with dy as the kernel, [*, *, *k]: strides and dilations are exchanged."""
    turned = Geometry(emit.shape(dy)[2:], g.dilation, g.before, g.after, g.stride, groups)
    dw = emit.convolve(x, turned.fitted(emit.shape(x)[2:], g.kernel), dy)
    # Without what rows of x that no window reached have added at the end.
    return emit.cut_many(dw, range(2, emit.rank(dw)), [(0, k, 1) for k in g.kernel])


def of_samples(emit: Any, x: Any, dy: Any, g: Geometry) -> Any:
    """Depthwise, [N, C, *k]: samples share no channel either, so N*C channels are convolved with dy."""
    n, c = emit.shape(x)[:2]
    data = emit.reshape(x, [1, n * c, *emit.shape(x)[2:]])
    kernel = emit.reshape(dy, [n * c, 1, *emit.shape(dy)[2:]])
    return emit.reshape(convolved(emit, data, kernel, g, n * c), [n, c, *g.kernel])
