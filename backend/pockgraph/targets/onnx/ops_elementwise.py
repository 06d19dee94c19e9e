"""Elementwise operators: arithmetic, functions of one tensor, comparisons, logic, casts.

ATen's broadcasting is numpy's, which is ONNX's. ATen's type promotion is made explicit:
operands are cast to the dtype that the node's value has (for comparisons, that the operands promote to).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from ..rule_table import steps_at_whole_numbers
from . import emit, op
from .masking import drop_gradient
from .rules import Context, moves, rule
from .value import Value

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


@rule(aten.add.Tensor, aten.add.Scalar)
def add(ctx: Context, node: fx.Node, x: Value, other: Any, alpha: Number) -> Value:
    x, other = operands(node, x, other)
    if out_dtype(node) == torch.bool:
        return op.logical_or(x, other)
    return emit.add(x, emit.scale(other, alpha))


@rule(aten.sub.Tensor, aten.sub.Scalar)
def sub(ctx: Context, node: fx.Node, x: Value, other: Any, alpha: Number) -> Value:
    x, other = operands(node, x, other)
    return emit.sub(x, emit.scale(other, alpha))


@rule(aten.rsub.Tensor, aten.rsub.Scalar)
def rsub(ctx: Context, node: fx.Node, x: Value, other: Any, alpha: Number) -> Value:
    return sub(ctx, node, other, x, alpha)


@rule(aten.mul.Tensor, aten.mul.Scalar)
def mul(ctx: Context, node: fx.Node, x: Value, other: Any) -> Value:
    if not isinstance(other, Value) and out_dtype(node).is_floating_point:
        return emit.scale(operand(x, out_dtype(node)), other)
    x, other = operands(node, x, other)
    if out_dtype(node) == torch.bool:
        return op.logical_and(x, other)
    return emit.mul(x, other)


@rule(aten.div.Tensor, aten.div.Scalar)
def div(ctx: Context, node: fx.Node, x: Value, other: Any) -> Value:
    if not isinstance(other, Value) and other != 0 and not steps_at_whole_numbers(node):
        # A number's reciprocal, in double precision; multiplication is what runtimes fuse.
        return emit.scale(operand(x, out_dtype(node)), 1 / other)
    return emit.div(*operands(node, x, other))


@rule(aten.div.Tensor_mode, aten.div.Scalar_mode)
def div_mode(ctx: Context, node: fx.Node, x: Value, other: Any, rounding_mode: str | None) -> Value:
    if rounding_mode is None:
        return div(ctx, node, x, other)
    x, other = operands(node, x, other)
    if out_dtype(node).is_floating_point:
        return _floor_of_ratio(x, other) if rounding_mode == "floor" else _trunc(emit.div(x, other))
    if rounding_mode == "trunc":
        return emit.div(x, other)
    return emit.div(emit.sub(x, op.remainder_of_floor(x, other)), other)


@rule(aten.floor_divide.default, aten.floor_divide.Scalar)
def floor_divide(ctx: Context, node: fx.Node, x: Value, other: Any) -> Value:
    return div_mode(ctx, node, x, other, "floor")


@rule(aten.remainder.Tensor, aten.remainder.Scalar)
def remainder(ctx: Context, node: fx.Node, x: Value, other: Any) -> Value:
    x, other = operands(node, x, other)
    if not out_dtype(node).is_floating_point:
        return op.remainder_of_floor(x, other)
    rest = op.remainder_of_trunc(x, other)
    return emit.select(_signs_differ(rest, other), emit.add(rest, other), rest)


@rule(aten.fmod.Tensor, aten.fmod.Scalar)
def fmod(ctx: Context, node: fx.Node, x: Value, other: Any) -> Value:
    return op.remainder_of_trunc(*operands(node, x, other))


def _floor_of_ratio(x: Value, y: Value) -> Value:
    """PyTorch's: what is left of x after whole y's decides, as the ratio itself may be rounded up."""
    rest = op.remainder_of_trunc(x, y)
    ratio = emit.div(emit.sub(x, rest), y)
    one = emit.like(1, ratio)
    ratio = emit.select(_signs_differ(rest, y), emit.sub(ratio, one), ratio)
    below = op.floor(ratio)
    over = op.greater(emit.sub(ratio, below), emit.like(0.5, ratio))
    return emit.select(over, emit.add(below, one), below)


def _signs_differ(rest: Value, y: Value) -> Value:
    """Where `rest` is not zero, and has another sign than y."""
    zero = emit.like(0, rest)
    differ = op.logical_xor(op.less(rest, zero), op.less(y, zero))
    return op.logical_and(differ, op.not_equal(rest, zero))


@rule(aten.pow.Tensor_Scalar)
def pow_scalar(ctx: Context, node: fx.Node, x: Value, exponent: Number) -> Value:
    x = operand(x, out_dtype(node))
    if exponent == 1:
        return x
    if exponent in (2, 3, 4):
        square = emit.mul(x, x)
        return {2: square, 3: emit.mul(square, x), 4: emit.mul(square, square)}[int(exponent)]
    if exponent == 0.5:
        return op.sqrt(x)
    if exponent == -0.5:
        return _rsqrt(x)
    if exponent == -1:
        return emit.div(emit.like(1, x), x)
    return op.power(x, emit.like(exponent, x))


@rule(aten.pow.Tensor_Tensor, aten.pow.Scalar)
def pow_tensor(ctx: Context, node: fx.Node, x: Any, exponent: Value) -> Value:
    return op.power(*operands(node, x, exponent))


@rule(aten.addcmul.default)
def addcmul(ctx: Context, node: fx.Node, x: Value, a: Value, b: Value, value: Number) -> Value:
    x, a, b = operands(node, x, a, b)
    return emit.add(x, emit.scale(emit.mul(a, b), value))


@rule(aten.addcdiv.default)
def addcdiv(ctx: Context, node: fx.Node, x: Value, a: Value, b: Value, value: Number) -> Value:
    x, a, b = operands(node, x, a, b)
    return emit.add(x, emit.scale(emit.div(a, b), value))


@rule(aten.lerp.Scalar, aten.lerp.Tensor)
def lerp(ctx: Context, node: fx.Node, x: Value, end: Value, weight: Any) -> Value:
    x, end, weight = operands(node, x, end, weight)
    return emit.add(x, emit.mul(weight, emit.sub(end, x)))


@rule(aten.xlogy.Tensor)
def xlogy(ctx: Context, node: fx.Node, x: Value, y: Value) -> Value:
    x, y = operands(node, x, y)
    zero = emit.like(0, x)
    return emit.select(op.equal(x, zero), zero, emit.mul(x, op.log(y)))


# ---------------------------------------------------------------- functions of one tensor


def _rsqrt(x: Value) -> Value:
    return emit.div(emit.like(1, x), op.sqrt(x))


def _trunc(x: Value) -> Value:
    return emit.mul(op.sign(x), op.floor(op.abs(x)))


def _log1p(x: Value) -> Value:
    # log(u) * x / (u - 1) with u = 1 + x corrects the rounding of u (Kahan).
    one = emit.like(1, x)
    u = emit.add(x, one)
    exact = op.equal(u, one)
    rest = emit.select(exact, one, emit.sub(u, one))
    return emit.select(exact, x, emit.div(emit.mul(op.log(u), x), rest))


def expm1(x: Value) -> Value:
    # expm1(x) = 2 t / (1 - t) with t = tanh(x / 2); far from 0 the plain form is the exact one.
    one = emit.like(1, x)
    t = op.tanh(emit.scale(x, 0.5))
    near = op.less(op.abs(x), emit.like(0.5, x))
    t = emit.keep_where(near, t)
    return emit.select(near, emit.div(emit.scale(t, 2), emit.sub(one, t)), emit.sub(op.exp(x), one))


def _silu(x: Value) -> Value:
    return emit.mul(x, op.sigmoid(x))


def _mish(x: Value) -> Value:
    return emit.mul(x, op.tanh(op.softplus(x)))


def _hardswish(x: Value) -> Value:
    return emit.mul(x, op.hard_sigmoid(x))


_UNARY: dict[Any, Callable[[Value], Value]] = {
    aten.neg.default: op.negative,
    aten.exp.default: op.exp,
    aten.log.default: op.log,
    aten.log2.default: lambda x: emit.scale(op.log(x), 1 / math.log(2)),
    aten.log10.default: lambda x: emit.scale(op.log(x), 1 / math.log(10)),
    aten.log1p.default: _log1p,
    aten.expm1.default: expm1,
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
    aten.silu.default: _silu,
    aten.mish.default: _mish,
    aten.hardswish.default: _hardswish,
    aten.hardsigmoid.default: op.hard_sigmoid,
    aten.floor.default: op.floor,
    aten.ceil.default: op.ceiling,
    aten.round.default: op.round_half_to_even,
    aten.trunc.default: _trunc,
}


def _unary(function: Callable[[Value], Value]) -> Callable[..., Value]:
    return lambda ctx, node, x: function(operand(x, out_dtype(node)))


for _overload, _function in _UNARY.items():
    rule(_overload)(_unary(_function))


@rule(aten.isnan.default)
def isnan(ctx: Context, node: fx.Node, x: Value) -> Value:
    return op.not_equal(x, x)


@rule(aten.isinf.default)
def isinf(ctx: Context, node: fx.Node, x: Value) -> Value:
    return op.equal(op.abs(x), emit.like(math.inf, x))


@rule(aten.isfinite.default)
def isfinite(ctx: Context, node: fx.Node, x: Value) -> Value:
    return op.less(op.abs(x), emit.like(math.inf, x))


# ---------------------------------------------------------------- comparisons, logic, choice


def promoted(node: fx.Node, *xs: Any) -> list[Value]:
    """The first two operands of a comparison in the dtype that they promote to."""
    a, b = (a.meta["val"] if isinstance(a, fx.Node) else a for a in node.args[:2])
    common = torch.result_type(a, b)  # pyright: ignore[reportArgumentType, reportCallIssue]
    common = torch.int32 if common == torch.bool else common  # ONNX has no order of booleans
    return [operand(x, common) for x in xs]


def _comparison(function: Callable[[Value, Value], Value]) -> Callable[..., Value]:
    return lambda ctx, node, x, other: function(*promoted(node, x, other))


for _name, _function in {
    "eq": op.equal,
    "ne": op.not_equal,
    "lt": op.less,
    "le": op.less_equal,
    "gt": op.greater,
    "ge": op.greater_equal,
}.items():
    rule(getattr(aten, _name).Tensor, getattr(aten, _name).Scalar)(_comparison(_function))


def _logical(function: Callable[..., Value]) -> Callable[..., Value]:
    return lambda ctx, node, *xs: function(*(emit.convert(x, torch.bool) for x in xs))


for _name in ("and", "or", "xor", "not"):
    rule(getattr(aten, f"logical_{_name}").default)(_logical(getattr(op, f"logical_{_name}")))


def _bitwise(name: str) -> Callable[..., Value]:
    def lowered(ctx: Context, node: fx.Node, *xs: Any) -> Value:
        kind = "logical" if out_dtype(node) == torch.bool else "bitwise"
        return getattr(op, f"{kind}_{name}")(*operands(node, *xs))

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
    if node.meta["phase"] == "backward" and isinstance(value, int | float) and value == 0:
        return drop_gradient(mask, x)
    x, value = operands(node, x, value)
    return emit.select(mask, value, x)


@rule(aten.maximum.default)
def maximum(ctx: Context, node: fx.Node, x: Value, other: Value) -> Value:
    x, other = operands(node, x, other)
    return op.logical_or(x, other) if x.dtype == torch.bool else op.maximum(x, other)


@rule(aten.minimum.default)
def minimum(ctx: Context, node: fx.Node, x: Value, other: Value) -> Value:
    x, other = operands(node, x, other)
    return op.logical_and(x, other) if x.dtype == torch.bool else op.minimum(x, other)


@rule(aten.clamp.default, aten.clamp.Tensor)
def clamp(ctx: Context, node: fx.Node, x: Value, low: Any, high: Any) -> Value:
    numbers = isinstance(low, int | float) and isinstance(high, int | float)
    if numbers and low <= high and out_dtype(node).is_floating_point:
        return emit.clamp(operand(x, out_dtype(node)), low, high)
    x = operand(x, out_dtype(node))
    if low is not None:
        x = op.maximum(x, operand(low, out_dtype(node)))
    if high is not None:
        x = op.minimum(x, operand(high, out_dtype(node)))
    return x


@rule(aten.clamp_min.default, aten.clamp_min.Tensor)
def clamp_min(ctx: Context, node: fx.Node, x: Value, low: Any) -> Value:
    return clamp(ctx, node, x, low, None)


@rule(aten.clamp_max.default, aten.clamp_max.Tensor)
def clamp_max(ctx: Context, node: fx.Node, x: Value, high: Any) -> Value:
    return clamp(ctx, node, x, None, high)


# ---------------------------------------------------------------- casts and copies


@moves(aten._to_copy.default)
def to_copy(ctx: Context, node: fx.Node, x: Value, *layout: Any) -> Value:
    return emit.convert(x, out_dtype(node))


@moves(aten.clone.default, aten.contiguous.default)
def clone(ctx: Context, node: fx.Node, x: Value, memory_format: Any) -> Value:
    return x


@moves(aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default)
def alias(ctx: Context, node: fx.Node, x: Value) -> Value:
    return x


@moves(aten.copy.default)
def copy(ctx: Context, node: fx.Node, x: Value, source: Value, non_blocking: bool) -> Value:
    return emit.broadcast(emit.convert(source, out_dtype(node)), out_shape(node))
