"""Convolution in 1, 2 and 3 dimensions, the gradient of its input, and the padding around it.

The gradient of the input comes as a transposed convolution; that of the weight is in
`weight_gradient`. Zero padding of its own (frameworks pad unevenly that way) becomes part of the
convolution, for OpenVINO's `Pad` is slow.

Shapes in comments: x [N, I, *in], weight [O, I/G, *k], dy [N, O, *out].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from ..shared.convolution import Geometry, padding_amounts
from . import emit
from .emit import Value, op
from .rules import Context, rule

aten = torch.ops.aten


# ---------------------------------------------------------------- forward


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
        y = transposed_convolution(x, weight, g, tuple(node.meta["val"].shape)[2:])
    else:
        y = convolve(*unpadded(ctx, node.args[0], x, g), weight)
    return y if bias is None else emit.add(y, emit.per_channel(bias, emit.rank(y)))


def convolve(x: Value, g: Geometry, weight: Value) -> Value:
    """x [N, I, *in], weight [O, I/G, *k] -> [N, O, *out]."""
    space = list(g.stride), list(g.before), list(g.after), list(g.dilation)
    if g.groups == 1:
        return op.convolution(x, weight, *space).output(0)
    return op.group_convolution(x, in_groups(weight, g.groups), *space).output(0)


def in_groups(weight: Value, groups: int) -> Value:
    """weight [O, I/G, *k] as [G, O/G, I/G, *k].

    OpenVINO (2026.4) moves a constant factor behind a grouped convolution in front of the `Reshape`
    of its weight, and with that into everything else that reads the same reshaped weight: its own
    transpose in the backward. So a trained weight gets there by way of a transpose.
    """
    o, *rest = emit.shape(weight)
    size = [groups, o // groups, *rest]
    if emit.is_constant(weight):
        return emit.reshape(weight, size)
    ndim = len(rest)
    last = emit.reshape(emit.transpose(weight, [*range(1, ndim + 1), 0]), [*rest, *size[:2]])
    return emit.transpose(last, [ndim, ndim + 1, *range(ndim)])


# ---------------------------------------------------------------- gradient of the input


def transposed_convolution(x: Value, weight: Value, g: Geometry, out: Sequence[int]) -> Value:
    """x [N, I, *in], weight [I, O/G, *k] -> [N, O, *out]."""
    size = emit.shape(x)[2:]
    unit_stride = all(s == 1 for s in g.stride)
    crops = any(r < b or n > b + o for r, b, n, o in zip(g.reach, g.before, size, out))
    if not unit_stride or crops:
        return by_backprop_data(x, weight, g, out)
    if g.groups > 1 or emit.is_constant(weight):
        return by_convolution(x, weight, g, out)
    # A trained weight would have to be turned around in every step.
    if all(k == 1 for k in g.kernel) and tuple(out) == size:
        return by_matmul(x, weight)
    return by_backprop_data(x, weight, g, out)


def by_matmul(x: Value, weight: Value) -> Value:
    """Stride 1, a kernel of one element: channels-last, as CPUs have it, the product needs no transpose."""
    n, i, *size = emit.shape(x)
    ndim = emit.rank(x)
    rows = emit.reshape(emit.transpose(x, [0, *range(2, ndim), 1]), [n * math.prod(size), i])
    y = emit.matmul(rows, emit.reshape(weight, emit.shape(weight)[:2]))
    return emit.transpose(emit.reshape(y, [n, *size, emit.shape(y)[1]]), [0, ndim - 1, *range(1, ndim - 1)])


def by_convolution(x: Value, weight: Value, g: Geometry, out: Sequence[int]) -> Value:
    """Stride 1: an ordinary convolution with the kernel turned around."""
    i, o, *kernel = emit.shape(weight)
    grouped = emit.reshape(weight, [g.groups, i // g.groups, o, *kernel])
    turned = emit.reshape(emit.swap(grouped, 1, 2), [g.groups * o, i // g.groups, *kernel])
    turned = emit.flip(turned, range(2, emit.rank(turned)))
    space = replace(g, before=tuple(r - b for r, b in zip(g.reach, g.before)))
    return convolve(x, space.fitted(emit.shape(x)[2:], out), turned)


def by_backprop_data(x: Value, weight: Value, g: Geometry, out: Sequence[int]) -> Value:
    """OpenVINO's own transposed convolution."""
    if emit.is_constant(weight) and emit.shape(weight)[0] == g.groups * emit.shape(weight)[1]:
        weight = emit.own_copy(weight)
    # The padding behind that gives `out`; where it is negative, `output_padding` adds instead.
    behind = [
        (n - 1) * s + r + 1 - b - o
        for n, s, r, b, o in zip(emit.shape(x)[2:], g.stride, g.reach, g.before, out)
    ]
    space = list(g.stride), None, list(g.before), [max(b, 0) for b in behind], list(g.dilation)
    extra = [max(-b, 0) for b in behind]
    if g.groups == 1:
        return op.convolution_backprop_data(x, weight, *space, output_padding=extra).output(0)
    i, *rest = emit.shape(weight)
    weight = emit.reshape(weight, [g.groups, i // g.groups, *rest])
    return op.group_convolution_backprop_data(x, weight, *space, output_padding=extra).output(0)


# ---------------------------------------------------------------- padding of its own


def unpadded(ctx: Context, source: Any, x: Value, g: Geometry) -> tuple[Value, Geometry]:
    """What `source` padded with zeros, and the geometry that does the padding instead."""
    if source.target is not aten.constant_pad_nd.default:
        return x, g
    before, after = padding_amounts(source)
    value = source.args[2] if len(source.args) > 2 else 0
    if value != 0 or min(before + after) < 0 or any(before[:2]) or any(after[:2]):
        return x, g
    return ctx.values[source.args[0]], g.padded(before[2:], after[2:])


@rule(aten.constant_pad_nd.default)
def constant_pad_nd(ctx: Context, node: fx.Node, x: Value, amounts: Sequence[int], value: float) -> Value:
    before, after = padding_amounts(node)
    source: Any = node.args[0]
    crops = max(before + after) <= 0 and not any(before[:2]) and not any(after[:2])
    if crops and source.target is aten.convolution.default and source.args[6] and source.args[2] is None:
        # The backward of a padding: the transposed convolution leaves the rim out by itself.
        dy, weight = (ctx.values[a] for a in source.args[:2])
        stride, padding, dilation = source.args[3:6]
        g = Geometry.of(emit.shape(weight)[2:], stride, padding, dilation, source.args[8])
        g = replace(g, before=tuple(a - b for a, b in zip(g.before, before[2:])))
        return transposed_convolution(dy, weight, g, tuple(node.meta["val"].shape)[2:])
    return emit.pad(x, before, after, value)
