"""Elementwise operators: arithmetic, comparisons, activations and their backwards, casts.

ATen's broadcasting is numpy's, which is OpenVINO's default. ATen's type promotion is made explicit:
operands are cast to the dtype that the node's value has (for comparisons, that the operands promote to).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from . import emit
from .emit import Value, op
from .lowering import Context, check, elementwise, rule

aten = torch.ops.aten
Number = int | float | bool


def out_dtype(node: fx.Node) -> torch.dtype:
    return node.meta["val"].dtype


def out_shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def operand(x: Value | Number, dtype: torch.dtype) -> Value:
    """A tensor or a Python number as a value of `dtype`."""
    return emit.convert(x, dtype) if isinstance(x, Value) else emit.const(x, dtype)


def operands(node: fx.Node, *xs: Any) -> list[Value]:
    return [operand(x, out_dtype(node)) for x in xs]


# ---------------------------------------------------------------- arithmetic


@elementwise(aten.add.Tensor, aten.add.Scalar)
def add(ctx: Context, node: fx.Node, x: Value, other: Any, alpha: Number) -> Value:
    x, other = operands(node, x, other)
    if out_dtype(node) == torch.bool:
        return op.logical_or(x, other).output(0)
    return emit.add(x, emit.scale(other, alpha))


@elementwise(aten.sub.Tensor, aten.sub.Scalar)
def sub(ctx: Context, node: fx.Node, x: Value, other: Any, alpha: Number) -> Value:
    x, other = operands(node, x, other)
    return emit.sub(x, emit.scale(other, alpha))


@elementwise(aten.rsub.Tensor, aten.rsub.Scalar)
def rsub(ctx: Context, node: fx.Node, x: Value, other: Any, alpha: Number) -> Value:
    return sub(ctx, node, other, x, alpha)


@elementwise(aten.mul.Tensor, aten.mul.Scalar)
def mul(ctx: Context, node: fx.Node, x: Value, other: Any) -> Value:
    if not isinstance(other, Value) and out_dtype(node).is_floating_point:
        return emit.scale(operand(x, out_dtype(node)), other)
    x, other = operands(node, x, other)
    if out_dtype(node) == torch.bool:
        return op.logical_and(x, other).output(0)
    return emit.mul(x, other)


@elementwise(aten.div.Tensor, aten.div.Scalar)
def div(ctx: Context, node: fx.Node, x: Value, other: Any) -> Value:
    if not isinstance(other, Value) and other != 0:
        # A number's reciprocal, in double precision; multiplication is what plugins fuse.
        return emit.scale(operand(x, out_dtype(node)), 1 / other)
    return emit.div(*operands(node, x, other))


@elementwise(aten.div.Tensor_mode, aten.div.Scalar_mode)
def div_mode(ctx: Context, node: fx.Node, x: Value, other: Any, rounding_mode: str | None) -> Value:
    if rounding_mode is None:
        return div(ctx, node, x, other)
    x, other = operands(node, x, other)
    if out_dtype(node).is_floating_point:
        ratio = emit.div(x, other)
        return op.floor(ratio).output(0) if rounding_mode == "floor" else _trunc(ratio)
    rest = op.floor_mod(x, other) if rounding_mode == "floor" else op.mod(x, other)
    return emit.div(emit.sub(x, rest.output(0)), other)  # exact, however integers are divided


@elementwise(aten.floor_divide.default, aten.floor_divide.Scalar)
def floor_divide(ctx: Context, node: fx.Node, x: Value, other: Any) -> Value:
    return div_mode(ctx, node, x, other, "floor")


@elementwise(aten.remainder.Tensor, aten.remainder.Scalar)
def remainder(ctx: Context, node: fx.Node, x: Value, other: Any) -> Value:
    return op.floor_mod(*operands(node, x, other)).output(0)


@elementwise(aten.fmod.Tensor, aten.fmod.Scalar)
def fmod(ctx: Context, node: fx.Node, x: Value, other: Any) -> Value:
    return op.mod(*operands(node, x, other)).output(0)


@elementwise(aten.pow.Tensor_Scalar)
def pow_scalar(ctx: Context, node: fx.Node, x: Value, exponent: Number) -> Value:
    x = operand(x, out_dtype(node))
    if exponent == 1:
        return x
    if exponent in (2, 3, 4):
        square = emit.mul(x, x)
        return {2: square, 3: emit.mul(square, x), 4: emit.mul(square, square)}[int(exponent)]
    if exponent == 0.5:
        return op.sqrt(x).output(0)
    if exponent == -0.5:
        return _rsqrt(x)
    if exponent == -1:
        return emit.div(emit.like(1, x), x)
    return op.power(x, emit.like(exponent, x)).output(0)


@elementwise(aten.pow.Tensor_Tensor, aten.pow.Scalar)
def pow_tensor(ctx: Context, node: fx.Node, x: Any, exponent: Value) -> Value:
    return op.power(*operands(node, x, exponent)).output(0)


@elementwise(aten.addcmul.default)
def addcmul(ctx: Context, node: fx.Node, x: Value, a: Value, b: Value, value: Number) -> Value:
    x, a, b = operands(node, x, a, b)
    return emit.add(x, emit.scale(emit.mul(a, b), value))


@elementwise(aten.addcdiv.default)
def addcdiv(ctx: Context, node: fx.Node, x: Value, a: Value, b: Value, value: Number) -> Value:
    x, a, b = operands(node, x, a, b)
    return emit.add(x, emit.scale(emit.div(a, b), value))


@elementwise(aten.lerp.Scalar, aten.lerp.Tensor)
def lerp(ctx: Context, node: fx.Node, x: Value, end: Value, weight: Any) -> Value:
    x, end, weight = operands(node, x, end, weight)
    return emit.add(x, emit.mul(weight, emit.sub(end, x)))


@elementwise(aten.xlogy.Tensor)
def xlogy(ctx: Context, node: fx.Node, x: Value, y: Value) -> Value:
    x, y = operands(node, x, y)
    zero = emit.like(0, x)
    return emit.select(op.equal(x, zero).output(0), zero, emit.mul(x, op.log(y).output(0)))


# ---------------------------------------------------------------- functions of one tensor


def _rsqrt(x: Value) -> Value:
    return emit.div(emit.like(1, x), op.sqrt(x).output(0))


def _trunc(x: Value) -> Value:
    return emit.mul(op.sign(x).output(0), op.floor(op.abs(x)).output(0))


def _log1p(x: Value) -> Value:
    # log(u) * x / (u - 1) with u = 1 + x corrects the rounding of u (Kahan).
    one = emit.like(1, x)
    u = emit.add(x, one)
    exact = op.equal(u, one).output(0)
    rest = emit.select(exact, one, emit.sub(u, one))
    return emit.select(exact, x, emit.div(emit.mul(op.log(u).output(0), x), rest))


def _expm1(x: Value) -> Value:
    # expm1(x) = 2 t / (1 - t) with t = tanh(x / 2); far from 0 the plain form is the exact one.
    one = emit.like(1, x)
    t = op.tanh(emit.scale(x, 0.5)).output(0)
    near = op.less(op.abs(x), emit.like(0.5, x)).output(0)
    t = emit.keep_where(near, t)
    return emit.select(
        near, emit.div(emit.scale(t, 2), emit.sub(one, t)), emit.sub(op.exp(x).output(0), one)
    )


_UNARY: dict[Any, Callable[[Value], Any]] = {
    aten.neg.default: op.negative,
    aten.exp.default: op.exp,
    aten.log.default: op.log,
    aten.log2.default: lambda x: emit.scale(op.log(x).output(0), 1 / math.log(2)),
    aten.log10.default: lambda x: emit.scale(op.log(x).output(0), 1 / math.log(10)),
    aten.log1p.default: _log1p,
    aten.expm1.default: _expm1,
    aten.sqrt.default: op.sqrt,
    aten.rsqrt.default: _rsqrt,
    aten.reciprocal.default: lambda x: emit.div(emit.like(1, x), x),
    aten.square.default: lambda x: emit.mul(x, x),
    aten.abs.default: op.abs,
    aten.sign.default: op.sign,
    aten.sgn.default: op.sign,
    aten.erf.default: op.erf,
    aten.sin.default: op.sin,
    aten.cos.default: op.cos,
    aten.tan.default: op.tan,
    aten.atan.default: op.atan,
    aten.sinh.default: op.sinh,
    aten.cosh.default: op.cosh,
    aten.tanh.default: op.tanh,
    aten.sigmoid.default: op.sigmoid,
    aten.relu.default: op.relu,
    aten.silu.default: op.swish,
    aten.mish.default: op.mish,
    aten.hardswish.default: op.hswish,
    aten.hardsigmoid.default: lambda x: op.hard_sigmoid(x, emit.like(1 / 6, x), emit.like(0.5, x)),
    aten.floor.default: op.floor,
    aten.ceil.default: op.ceiling,
    aten.round.default: lambda x: op.round(x, "half_to_even"),
    aten.trunc.default: _trunc,
}


def _unary(function: Callable[[Value], Any]) -> Callable[..., Value]:
    def lowered(ctx: Context, node: fx.Node, x: Value) -> Value:
        made = function(operand(x, out_dtype(node)))
        return made if isinstance(made, Value) else made.output(0)

    return lowered


for _overload, _function in _UNARY.items():
    elementwise(_overload)(_unary(_function))


@rule(aten.isnan.default)
def isnan(ctx: Context, node: fx.Node, x: Value) -> Value:
    return op.not_equal(x, x).output(0)


@rule(aten.isinf.default)
def isinf(ctx: Context, node: fx.Node, x: Value) -> Value:
    return op.equal(op.abs(x), emit.like(math.inf, x)).output(0)


@rule(aten.isfinite.default)
def isfinite(ctx: Context, node: fx.Node, x: Value) -> Value:
    return op.less(op.abs(x), emit.like(math.inf, x)).output(0)


# ---------------------------------------------------------------- activations and their backwards


@rule(aten.hardtanh.default)
def hardtanh(ctx: Context, node: fx.Node, x: Value, low: Number, high: Number) -> Value:
    return op.clamp(x, float(low), float(high)).output(0)


@rule(aten.hardtanh_backward.default)
def hardtanh_backward(ctx: Context, node: fx.Node, dy: Value, x: Value, low: Number, high: Number) -> Value:
    # low < x < high exactly where low < hardtanh(x) < high: reading the output instead leaves the
    # input without another reader, so that the plugin can fuse the activation into what makes it.
    for user in node.args[1].users:  # pyright: ignore
        if user.target is aten.hardtanh.default and user in ctx.values and _bounds(user) == (low, high):
            x = ctx.values[user]
    inside = op.logical_and(op.greater(x, emit.like(low, x)), op.less(x, emit.like(high, x)))
    return emit.keep_where(inside.output(0), dy)


def _bounds(node: fx.Node) -> tuple[Number, Number]:
    low, high = (*node.args[1:], *(-1, 1)[len(node.args) - 1 :])
    return low, high  # pyright: ignore


@rule(aten.threshold_backward.default)
def threshold_backward(ctx: Context, node: fx.Node, dy: Value, x: Value, threshold: Number) -> Value:
    return emit.keep_where(op.greater(x, emit.like(threshold, x)).output(0), dy)


@rule(aten.threshold.default)
def threshold(ctx: Context, node: fx.Node, x: Value, threshold: Number, value: Number) -> Value:
    return emit.select(op.greater(x, emit.like(threshold, x)).output(0), x, emit.like(value, x))


@rule(aten.sigmoid_backward.default)
def sigmoid_backward(ctx: Context, node: fx.Node, dy: Value, y: Value) -> Value:
    return emit.mul(dy, emit.mul(y, emit.sub(emit.like(1, y), y)))


@rule(aten.tanh_backward.default)
def tanh_backward(ctx: Context, node: fx.Node, dy: Value, y: Value) -> Value:
    return emit.mul(dy, emit.sub(emit.like(1, y), emit.mul(y, y)))


@rule(aten.gelu.default)
def gelu(ctx: Context, node: fx.Node, x: Value, approximate: str) -> Value:
    return op.gelu(x, "tanh" if approximate == "tanh" else "erf").output(0)


@rule(aten.gelu_backward.default)
def gelu_backward(ctx: Context, node: fx.Node, dy: Value, x: Value, approximate: str) -> Value:
    one = emit.like(1, x)
    square = emit.mul(x, x)
    if approximate == "tanh":
        # y = x/2 (1 + tanh u), u = a (x + b x³); y' = (1 + tanh u)/2 + x/2 (1 - tanh² u) u'
        a, b = math.sqrt(2 / math.pi), 0.044715
        u = emit.mul(x, emit.add(emit.like(a, x), emit.scale(square, a * b)))
        t = op.tanh(u).output(0)
        slope = emit.add(emit.like(a, x), emit.scale(square, 3 * a * b))
        left = emit.scale(emit.add(one, t), 0.5)
        right = emit.mul(emit.mul(emit.scale(x, 0.5), emit.sub(one, emit.mul(t, t))), slope)
        return emit.mul(dy, emit.add(left, right))
    # y = x Φ(x); y' = Φ(x) + x φ(x)
    cdf = emit.scale(emit.add(one, op.erf(emit.scale(x, math.sqrt(0.5))).output(0)), 0.5)
    pdf = emit.scale(op.exp(emit.scale(square, -0.5)).output(0), 1 / math.sqrt(2 * math.pi))
    return emit.mul(dy, emit.add(cdf, emit.mul(x, pdf)))


@rule(aten.silu_backward.default)
def silu_backward(ctx: Context, node: fx.Node, dy: Value, x: Value) -> Value:
    one = emit.like(1, x)
    s = op.sigmoid(x).output(0)
    return emit.mul(dy, emit.mul(s, emit.add(one, emit.mul(x, emit.sub(one, s)))))


@rule(aten.mish_backward.default)
def mish_backward(ctx: Context, node: fx.Node, dy: Value, x: Value) -> Value:
    t = op.tanh(op.softplus(x)).output(0)
    s = op.sigmoid(x).output(0)
    slope = emit.mul(emit.mul(x, s), emit.sub(emit.like(1, x), emit.mul(t, t)))
    return emit.mul(dy, emit.add(t, slope))


@rule(aten.hardswish_backward.default)
def hardswish_backward(ctx: Context, node: fx.Node, dy: Value, x: Value) -> Value:
    slope = emit.add(emit.scale(x, 1 / 3), emit.like(0.5, x))
    above = op.greater_equal(x, emit.like(3, x)).output(0)
    below = op.less_equal(x, emit.like(-3, x)).output(0)
    slope = emit.select(above, emit.like(1, x), emit.select(below, emit.like(0, x), slope))
    return emit.mul(dy, slope)


@rule(aten.hardsigmoid_backward.default)
def hardsigmoid_backward(ctx: Context, node: fx.Node, dy: Value, x: Value) -> Value:
    inside = op.less(op.abs(x), emit.like(3, x)).output(0)
    return emit.keep_where(inside, emit.scale(dy, 1 / 6))


@rule(aten.leaky_relu.default)
def leaky_relu(ctx: Context, node: fx.Node, x: Value, slope: Number) -> Value:
    return op.prelu(x, emit.const([slope], emit.dtype(x))).output(0)


@rule(aten.leaky_relu_backward.default)
def leaky_relu_backward(
    ctx: Context, node: fx.Node, dy: Value, x: Value, slope: Number, self_is_result: bool
) -> Value:
    return emit.select(op.greater(x, emit.like(0, x)).output(0), dy, emit.scale(dy, slope))


@rule(aten.elu.default)
def elu(ctx: Context, node: fx.Node, x: Value, alpha: Number, scale: Number, input_scale: Number) -> Value:
    negative = emit.scale(_expm1(op.minimum(emit.scale(x, input_scale), emit.like(0, x)).output(0)), alpha)
    positive = op.greater(x, emit.like(0, x)).output(0)
    return emit.scale(emit.select(positive, x, negative), scale)


@rule(aten.celu.default)
def celu(ctx: Context, node: fx.Node, x: Value, alpha: Number) -> Value:
    return elu(ctx, node, x, alpha, 1, 1 / alpha)


@rule(aten.elu_backward.default)
def elu_backward(
    ctx: Context,
    node: fx.Node,
    dy: Value,
    alpha: Number,
    scale: Number,
    input_scale: Number,
    is_result: bool,
    x: Value,
) -> Value:
    positive = op.greater(x, emit.like(0, x)).output(0)
    if is_result:
        slope = emit.scale(emit.add(x, emit.like(alpha * scale, x)), input_scale)
    else:
        below = op.minimum(emit.scale(x, input_scale), emit.like(0, x))
        slope = emit.scale(op.exp(below).output(0), input_scale * alpha * scale)
    return emit.mul(dy, emit.select(positive, emit.like(scale, x), slope))


@rule(aten.softplus.default)
def softplus(ctx: Context, node: fx.Node, x: Value, beta: Number, threshold: Number) -> Value:
    scaled = emit.scale(x, beta)
    soft = emit.scale(op.softplus(scaled).output(0), 1 / beta)
    return emit.select(op.greater(scaled, emit.like(threshold, x)).output(0), x, soft)


@rule(aten.softplus_backward.default)
def softplus_backward(
    ctx: Context, node: fx.Node, dy: Value, x: Value, beta: Number, threshold: Number
) -> Value:
    scaled = emit.scale(x, beta)
    soft = emit.mul(dy, op.sigmoid(scaled).output(0))
    return emit.select(op.greater(scaled, emit.like(threshold, x)).output(0), dy, soft)


@rule(aten.log_sigmoid_forward.default)
def log_sigmoid_forward(ctx: Context, node: fx.Node, x: Value) -> tuple[Value, None]:
    """The second output is a buffer that only ATen's own backward reads."""
    return op.negative(op.softplus(op.negative(x))).output(0), None


@rule(aten.log_sigmoid_backward.default)
def log_sigmoid_backward(ctx: Context, node: fx.Node, dy: Value, x: Value, buffer: None) -> Value:
    return emit.mul(dy, op.sigmoid(op.negative(x)).output(0))


# ---------------------------------------------------------------- comparisons, logic, choice


def promoted(node: fx.Node, *xs: Any) -> list[Value]:
    """The first two operands of a comparison in the dtype that they promote to."""
    metas = [a.meta["val"] if isinstance(a, fx.Node) else a for a in node.args[:2]]
    common = torch.result_type(*metas)
    return [operand(x, common) for x in xs]


def _comparison(function: Callable[..., Any]) -> Callable[..., Value]:
    def lowered(ctx: Context, node: fx.Node, x: Value, other: Any) -> Value:
        return function(*promoted(node, x, other)).output(0)

    return lowered


for _name, _function in {
    "eq": op.equal,
    "ne": op.not_equal,
    "lt": op.less,
    "le": op.less_equal,
    "gt": op.greater,
    "ge": op.greater_equal,
}.items():
    rule(getattr(aten, _name).Tensor, getattr(aten, _name).Scalar)(_comparison(_function))


def _logical(function: Callable[..., Any]) -> Callable[..., Value]:
    def lowered(ctx: Context, node: fx.Node, *xs: Value) -> Value:
        return function(*(emit.convert(x, torch.bool) for x in xs)).output(0)

    return lowered


for _name in ("and", "or", "xor", "not"):
    rule(getattr(aten, f"logical_{_name}").default)(_logical(getattr(op, f"logical_{_name}")))


def _bitwise(name: str) -> Callable[..., Value]:
    def lowered(ctx: Context, node: fx.Node, *xs: Any) -> Value:
        kind = "logical" if out_dtype(node) == torch.bool else "bitwise"
        return getattr(op, f"{kind}_{name}")(*operands(node, *xs)).output(0)

    return lowered


for _name in ("and", "or", "xor"):
    rule(getattr(aten, f"bitwise_{_name}").Tensor, getattr(aten, f"bitwise_{_name}").Scalar)(_bitwise(_name))
rule(aten.bitwise_not.default)(_bitwise("not"))


@rule(aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar)
def where(ctx: Context, node: fx.Node, condition: Value, x: Any, other: Any) -> Value:
    x, other = operands(node, x, other)
    chosen = emit.select(emit.convert(condition, torch.bool), x, other)
    return emit.broadcast(chosen, out_shape(node))


@rule(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(ctx: Context, node: fx.Node, x: Value, mask: Value, value: Any) -> Value:
    x, value = operands(node, x, value)
    return emit.select(mask, value, x)


@elementwise(aten.maximum.default)
def maximum(ctx: Context, node: fx.Node, x: Value, other: Value) -> Value:
    return op.maximum(*operands(node, x, other)).output(0)


@elementwise(aten.minimum.default)
def minimum(ctx: Context, node: fx.Node, x: Value, other: Value) -> Value:
    return op.minimum(*operands(node, x, other)).output(0)


@rule(aten.clamp.default, aten.clamp.Tensor)
def clamp(ctx: Context, node: fx.Node, x: Value, low: Any, high: Any) -> Value:
    numbers = not isinstance(low, Value) and not isinstance(high, Value)
    if numbers and None not in (low, high) and low <= high and out_dtype(node).is_floating_point:
        return op.clamp(operand(x, out_dtype(node)), float(low), float(high)).output(0)
    x = operand(x, out_dtype(node))
    if low is not None:
        x = op.maximum(x, operand(low, out_dtype(node))).output(0)
    if high is not None:
        x = op.minimum(x, operand(high, out_dtype(node))).output(0)
    return x


@rule(aten.clamp_min.default, aten.clamp_min.Tensor)
def clamp_min(ctx: Context, node: fx.Node, x: Value, low: Any) -> Value:
    return clamp(ctx, node, x, low, None)


@rule(aten.clamp_max.default, aten.clamp_max.Tensor)
def clamp_max(ctx: Context, node: fx.Node, x: Value, high: Any) -> Value:
    return clamp(ctx, node, x, None, high)


# ---------------------------------------------------------------- casts and copies


@rule(aten._to_copy.default)
def to_copy(ctx: Context, node: fx.Node, x: Value, *layout: Any) -> Value:
    return emit.convert(x, out_dtype(node))


@rule(aten.clone.default, aten.contiguous.default)
def clone(ctx: Context, node: fx.Node, x: Value, memory_format: Any) -> Value:
    return x


@rule(aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default)
def alias(ctx: Context, node: fx.Node, x: Value) -> Value:
    return x


@rule(aten.copy.default)
def copy(ctx: Context, node: fx.Node, x: Value, source: Value, non_blocking: bool) -> Value:
    return emit.broadcast(emit.convert(source, out_dtype(node)), out_shape(node))


@check(aten.hardtanh.default, aten.gelu.default, aten.leaky_relu.default)
def _floating(node: fx.Node, x: fx.Node, *rest: Any) -> str:
    return "" if x.meta["val"].is_floating_point() else f"it takes floating-point tensors only, not {x.meta['val'].dtype}"
