"""Convolution in 1, 2 and 3 dimensions, the gradient of its input, and the padding around it.

ONNX Runtime's `ConvTranspose` takes two to ten times as long as its `Conv` for the same arithmetic. So with
stride 1 the gradient of the input is a `Conv` with the kernel turned around. Zero padding of its own
(frameworks pad unevenly that way) becomes part of the convolution.

Shapes in comments: x [N, I, *in], weight [O, I/G, *k], dy [N, O, *out].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from ..shared.convolution import Geometry, padding_amounts
from . import emit, op
from .rules import Context, rule
from .value import Value, is_constant

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
    if not transposed:
        x, g = unpadded(ctx, node.args[0], x, g)
        if bias is None or is_constant(bias) or not is_constant(weight):
            return convolve(x, g, weight, bias)
        # ONNX Runtime has fast kernels for convolutions of which all is constant: keep a trained bias apart.
        return _with_bias(convolve(x, g, weight), bias)
    y = transposed_convolution(x, weight, g, tuple(node.meta["val"].shape)[2:])
    return y if bias is None else _with_bias(y, bias)


def _with_bias(y: Value, bias: Value) -> Value:
    return emit.add(y, emit.per_channel(bias, emit.rank(y)))


def convolve(x: Value, g: Geometry, weight: Value, bias: Value | None = None) -> Value:
    """x [N, I, *in], weight [O, I/G, *k] -> [N, O, *out]."""
    out = [
        (n + b + a - r - 1) // s + 1
        for n, b, a, r, s in zip(emit.shape(x)[2:], g.before, g.after, g.reach, g.stride)
    ]
    return op.conv(x, weight, bias, out, pads=[*g.before, *g.after], **_space(g))


def _space(g: Geometry) -> dict[str, Any]:
    return {
        "kernel_shape": list(g.kernel),
        "strides": list(g.stride),
        "dilations": list(g.dilation),
        "group": g.groups,
    }


# ---------------------------------------------------------------- gradient of the input


def transposed_convolution(x: Value, weight: Value, g: Geometry, out: Sequence[int]) -> Value:
    """x [N, I, *in], weight [I, O/G, *k] -> [N, O, *out]."""
    crops = any(r < b or n > b + o for r, b, n, o in zip(g.reach, g.before, emit.shape(x)[2:], out))
    if all(s == 1 for s in g.stride) and not crops:
        return by_convolution(x, weight, g, out)
    return by_transposition(x, weight, g, out)


def by_convolution(x: Value, weight: Value, g: Geometry, out: Sequence[int]) -> Value:
    """Stride 1: an ordinary convolution with the kernel turned around."""
    i, o, *kernel = emit.shape(weight)
    grouped = emit.reshape(weight, [g.groups, i // g.groups, o, *kernel])
    turned = emit.reshape(emit.swap(grouped, 1, 2), [g.groups * o, i // g.groups, *kernel])
    turned = emit.flip(turned, range(2, emit.rank(turned)))
    space = replace(g, before=tuple(r - b for r, b in zip(g.reach, g.before)))
    return convolve(x, space.fitted(emit.shape(x)[2:], out), turned)


def by_transposition(x: Value, weight: Value, g: Geometry, out: Sequence[int]) -> Value:
    """ONNX's own transposed convolution."""
    # The padding behind that gives `out`; where it is negative, `output_padding` adds instead.
    behind = [
        (n - 1) * s + r + 1 - b - o
        for n, s, r, b, o in zip(emit.shape(x)[2:], g.stride, g.reach, g.before, out)
    ]
    pads = [*g.before, *(max(b, 0) for b in behind)]
    extra = [max(-b, 0) for b in behind]
    return op.conv_transpose(x, weight, out, pads=pads, output_padding=extra, **_space(g))


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
