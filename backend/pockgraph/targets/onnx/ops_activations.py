"""Activations and their backwards, each written out in operators that every runtime has."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from . import emit, op
from .masking import keep_gradient
from .ops_elementwise import Number, expm1
from .rules import Context, check, rule
from .value import Value

aten = torch.ops.aten


@rule(aten.hardtanh.default)
def hardtanh(ctx: Context, node: fx.Node, x: Value, low: Number, high: Number) -> Value:
    return emit.clamp(x, low, high)


@rule(aten.hardtanh_backward.default)
def hardtanh_backward(ctx: Context, node: fx.Node, dy: Value, x: Value, low: Number, high: Number) -> Value:
    # low < x < high exactly where low < hardtanh(x) < high: reading the output instead leaves the
    # input without another reader, so that a runtime can fuse the activation into what makes it.
    for user in node.args[1].users:  # pyright: ignore
        if user.target is aten.hardtanh.default and user in ctx.values and _bounds(user) == (low, high):
            x = ctx.values[user]
    inside = op.logical_and(op.greater(x, emit.like(low, x)), op.less(x, emit.like(high, x)))
    return keep_gradient(inside, dy)


def _bounds(node: fx.Node) -> tuple[Number, Number]:
    low, high = (*node.args[1:], *(-1, 1)[len(node.args) - 1 :])
    return low, high  # pyright: ignore


@rule(aten.threshold_backward.default)
def threshold_backward(ctx: Context, node: fx.Node, dy: Value, x: Value, threshold: Number) -> Value:
    return keep_gradient(op.greater(x, emit.like(threshold, x)), dy)


@rule(aten.threshold.default)
def threshold(ctx: Context, node: fx.Node, x: Value, threshold: Number, value: Number) -> Value:
    return emit.select(op.greater(x, emit.like(threshold, x)), x, emit.like(value, x))


@rule(aten.gelu.default)
def gelu(ctx: Context, node: fx.Node, x: Value, approximate: str) -> Value:
    gain = op.tanh(_tanh_argument(x)) if approximate == "tanh" else op.erf(emit.scale(x, math.sqrt(0.5)))
    return emit.mul(emit.scale(x, 0.5), emit.add(emit.like(1, x), gain))


# y = x/2 (1 + tanh u), u = a (x + b x³)
A, B = math.sqrt(2 / math.pi), 0.044715


def _tanh_argument(x: Value) -> Value:
    return emit.mul(x, emit.add(emit.like(A, x), emit.scale(emit.mul(x, x), A * B)))


@rule(aten.mish_backward.default)
def mish_backward(ctx: Context, node: fx.Node, dy: Value, x: Value) -> Value:
    t = op.tanh(op.softplus(x))
    s = op.sigmoid(x)
    slope = emit.mul(emit.mul(x, s), emit.sub(emit.like(1, x), emit.mul(t, t)))
    return emit.mul(dy, emit.add(t, slope))


@rule(aten.hardsigmoid_backward.default)
def hardsigmoid_backward(ctx: Context, node: fx.Node, dy: Value, x: Value) -> Value:
    inside = op.less(op.abs(x), emit.like(3, x))
    return keep_gradient(inside, emit.scale(dy, 1 / 6))


@rule(aten.leaky_relu.default)
def leaky_relu(ctx: Context, node: fx.Node, x: Value, slope: Number) -> Value:
    return op.leaky_relu(x, slope)


@rule(aten.elu.default)
def elu(ctx: Context, node: fx.Node, x: Value, alpha: Number, scale: Number, input_scale: Number) -> Value:
    negative = emit.scale(expm1(op.minimum(emit.scale(x, input_scale), emit.like(0, x))), alpha)
    positive = op.greater(x, emit.like(0, x))
    return emit.scale(emit.select(positive, x, negative), scale)


@rule(aten.celu.default)
def celu(ctx: Context, node: fx.Node, x: Value, alpha: Number) -> Value:
    return elu(ctx, node, x, alpha, 1, 1 / alpha)


@rule(aten.softplus.default)
def softplus(ctx: Context, node: fx.Node, x: Value, beta: Number, threshold: Number) -> Value:
    scaled = emit.scale(x, beta)
    soft = emit.scale(op.softplus(scaled), 1 / beta)
    return emit.select(op.greater(scaled, emit.like(threshold, x)), x, soft)


@rule(aten.log_sigmoid_forward.default)
def log_sigmoid_forward(ctx: Context, node: fx.Node, x: Value) -> tuple[Value, None]:
    """The second output is a buffer that only ATen's own backward reads."""
    return op.negative(op.softplus(op.negative(x))), None


@check(aten.hardtanh.default, aten.gelu.default, aten.leaky_relu.default)
def _floating(node: fx.Node, x: fx.Node, *rest: Any) -> str:
    return (
        ""
        if x.meta["val"].is_floating_point()
        else f"it takes floating-point tensors only, not {x.meta['val'].dtype}"
    )
