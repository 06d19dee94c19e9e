"""Elementwise operators: arithmetic, functions of one tensor, comparisons, logic, casts.

ATen's broadcasting is numpy's, which every runtime has. ATen's type promotion is made explicit:
operands are cast to the dtype that the node's value has (for comparisons, that the operands promote to).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ...ir.graph import aten
from ..rule_table import steps_at_whole_numbers
from .shared_rules import check, moves, out_dtype, out_shape, rule

Number = int | float | bool


def operand(emit: Any, x: Any, dtype: torch.dtype) -> Any:
    """A tensor or a Python number as a value of `dtype`."""
    return emit.const(x, dtype) if isinstance(x, Number) else emit.convert(x, dtype)


def operands(emit: Any, node: fx.Node, *xs: Any) -> list[Any]:
    return [operand(emit, x, out_dtype(node)) for x in xs]


# ---------------------------------------------------------------- arithmetic


@rule(aten.add.Tensor, aten.add.Scalar)
def add(emit: Any, node: fx.Node, x: Any, other: Any, alpha: Number) -> Any:
    x, other = operands(emit, node, x, other)
    if out_dtype(node) == torch.bool:
        return emit.native.logical_or(x, other)
    return emit.add(x, emit.scale(other, alpha))


@rule(aten.sub.Tensor, aten.sub.Scalar)
def sub(emit: Any, node: fx.Node, x: Any, other: Any, alpha: Number) -> Any:
    x, other = operands(emit, node, x, other)
    return emit.sub(x, emit.scale(other, alpha))


@rule(aten.rsub.Tensor, aten.rsub.Scalar)
def rsub(emit: Any, node: fx.Node, x: Any, other: Any, alpha: Number) -> Any:
    return sub(emit, node, other, x, alpha)


@rule(aten.mul.Tensor, aten.mul.Scalar)
def mul(emit: Any, node: fx.Node, x: Any, other: Any) -> Any:
    if isinstance(other, Number) and out_dtype(node).is_floating_point:
        return emit.scale(operand(emit, x, out_dtype(node)), other)
    x, other = operands(emit, node, x, other)
    return emit.native.logical_and(x, other) if out_dtype(node) == torch.bool else emit.mul(x, other)


@rule(aten.div.Tensor, aten.div.Scalar)
def div(emit: Any, node: fx.Node, x: Any, other: Any) -> Any:
    if steps_at_whole_numbers(node):
        return emit.exact_ratio(*operands(emit, node, x, other))
    if isinstance(other, Number) and other != 0:
        # A number's reciprocal, in double precision; multiplication is what runtimes fuse.
        return emit.scale(operand(emit, x, out_dtype(node)), 1 / other)
    return emit.div(*operands(emit, node, x, other))


@rule(aten.div.Tensor_mode, aten.div.Scalar_mode)
def div_integers(emit: Any, node: fx.Node, x: Any, other: Any, rounding_mode: str) -> Any:
    x, other = operands(emit, node, x, other)
    rest = emit.native.floor_mod(x, other) if rounding_mode == "floor" else emit.native.mod(x, other)
    return emit.div(emit.sub(x, rest), other)  # exact, however integers are divided


@rule(aten.remainder.Tensor, aten.remainder.Scalar)
def remainder_of_integers(emit: Any, node: fx.Node, x: Any, other: Any) -> Any:
    return emit.native.floor_mod(*operands(emit, node, x, other))


@check(
    aten.div.Tensor_mode, aten.div.Scalar_mode, aten.remainder.Tensor, aten.remainder.Scalar,
)  # fmt: skip
def _of_integers(node: fx.Node, *args: Any) -> str:
    return "it divides integers only" if out_dtype(node).is_floating_point else ""


@rule(aten.fmod.Tensor, aten.fmod.Scalar)
def fmod(emit: Any, node: fx.Node, x: Any, other: Any) -> Any:
    x, other = operands(emit, node, x, other)
    return emit.fmod(x, other) if out_dtype(node).is_floating_point else emit.native.mod(x, other)


@rule(aten.pow.Tensor_Scalar)
def pow_scalar(emit: Any, node: fx.Node, x: Any, exponent: Number) -> Any:
    """Small exponents as products, which take a tenth of the time and do not round to something else."""
    x = operand(emit, x, out_dtype(node))
    if exponent == 1:
        return x
    if exponent in (2, 3, 4):
        square = emit.mul(x, x)
        return {2: square, 3: emit.mul(square, x), 4: emit.mul(square, square)}[int(exponent)]
    if exponent in (0.5, -0.5):
        root = emit.native.sqrt(x)
        return root if exponent > 0 else emit.div(emit.scalar(1, x), root)
    return (
        emit.div(emit.scalar(1, x), x) if exponent == -1 else emit.native.power(x, emit.scalar(exponent, x))
    )


@rule(aten.pow.Tensor_Tensor, aten.pow.Scalar)
def pow_tensor(emit: Any, node: fx.Node, x: Any, exponent: Any) -> Any:
    return emit.native.power(*operands(emit, node, x, exponent))


# ---------------------------------------------------------------- functions of one tensor

# What a runtime calls them, or how they are made.
UNARY: dict[Any, Any] = {
    aten.neg.default: "negative",
    aten.exp.default: "exp",
    aten.log.default: "log",
    aten.sqrt.default: "sqrt",
    aten.rsqrt.default: lambda emit, x: emit.div(emit.scalar(1, x), emit.native.sqrt(x)),
    aten.reciprocal.default: lambda emit, x: emit.div(emit.scalar(1, x), x),
    aten.abs.default: "abs",
    aten.sign.default: "sign",
    aten.sgn.default: "sign",
    aten.erf.default: "erf",
    aten.sin.default: "sin",
    aten.cos.default: "cos",
    aten.tan.default: "tan",
    aten.atan.default: "atan",
    aten.sinh.default: "sinh",
    aten.cosh.default: "cosh",
    aten.tanh.default: "tanh",
    aten.sigmoid.default: "sigmoid",
    aten.relu.default: "relu",
    aten.floor.default: "floor",
    aten.ceil.default: "ceiling",
    aten.round.default: "round_half_to_even",
    aten.hardsigmoid.default: "hard_sigmoid",
    aten.trunc.default: lambda emit, x: emit.mul(emit.native.sign(x), emit.native.floor(emit.native.abs(x))),
}


def unary(function: Any) -> Any:
    """The rule of an entry of `UNARY`."""

    def lowered(emit: Any, node: fx.Node, x: Any) -> Any:
        x = operand(emit, x, out_dtype(node))
        return getattr(emit.native, function)(x) if isinstance(function, str) else function(emit, x)

    return lowered


for _overload, _function in UNARY.items():
    rule(_overload)(unary(_function))


@rule(aten.hardtanh.default)
def hardtanh(emit: Any, node: fx.Node, x: Any, low: Number, high: Number) -> Any:
    return emit.clamp(x, low, high)


@rule(aten.leaky_relu.default)
def leaky_relu(emit: Any, node: fx.Node, x: Any, slope: float) -> Any:
    return emit.native.leaky_relu(x, slope)


@check(aten.hardtanh.default, aten.leaky_relu.default)
def floating(node: fx.Node, x: fx.Node, *rest: Any) -> str:
    dtype = x.meta["val"].dtype
    return "" if dtype.is_floating_point else f"it takes floating-point tensors only, not {dtype}"


@rule(aten.hardtanh_backward.default)
def hardtanh_backward(emit: Any, node: fx.Node, dy: Any, x: Any, low: Number, high: Number) -> Any:
    above, below = (
        emit.native.greater(x, emit.scalar(low, x)),
        emit.native.less(x, emit.scalar(high, x)),
    )
    return emit.keep_gradient(emit.native.logical_and(above, below), dy)


@rule(aten.threshold_backward.default)
def threshold_backward(emit: Any, node: fx.Node, dy: Any, x: Any, threshold: Number) -> Any:
    return emit.keep_gradient(emit.native.greater(x, emit.scalar(threshold, x)), dy)


@rule(aten.softplus.default)
def softplus(emit: Any, node: fx.Node, x: Any, beta: Number, threshold: Number) -> Any:
    scaled = emit.scale(x, beta)
    soft = emit.scale(emit.native.softplus(scaled), 1 / beta)
    if threshold >= 17:  # from where on x and softplus(x) are the same float32
        return soft
    return emit.select(emit.native.greater(scaled, emit.scalar(threshold, x)), x, soft)


@rule(aten.log_sigmoid_forward.default)
def log_sigmoid_forward(emit: Any, node: fx.Node, x: Any) -> tuple[Any, None]:
    """The second output is a buffer that only ATen's own backward reads."""
    return emit.native.negative(emit.native.softplus(emit.native.negative(x))), None


# ---------------------------------------------------------------- comparisons, logic, choice


def _comparison(name: str) -> Any:
    def lowered(emit: Any, node: fx.Node, *xs: Any) -> Any:
        a, b = (a.meta["val"] if isinstance(a, fx.Node) else a for a in node.args[:2])
        common = torch.result_type(a, b)  # pyright: ignore[reportArgumentType, reportCallIssue]
        common = torch.int32 if common == torch.bool else common  # ONNX has no order of booleans
        return getattr(emit.native, name)(*(operand(emit, x, common) for x in xs))

    return lowered


COMPARISONS = {
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"
}  # fmt: skip
for _name, _function in COMPARISONS.items():
    rule(getattr(aten, _name).Tensor, getattr(aten, _name).Scalar)(_comparison(_function))


def _logical(name: str) -> Any:
    return lambda emit, node, *xs: getattr(emit.native, name)(*(emit.convert(x, torch.bool) for x in xs))


def _bitwise(name: str) -> Any:
    def lowered(emit: Any, node: fx.Node, *xs: Any) -> Any:
        kind = "logical" if out_dtype(node) == torch.bool else "bitwise"
        return getattr(emit.native, f"{kind}_{name}")(*operands(emit, node, *xs))

    return lowered


for _name in ("and", "or", "xor", "not"):
    _packet = getattr(aten, f"bitwise_{_name}")
    rule(*(getattr(_packet, o) for o in _packet.overloads() if o in ("default", "Tensor", "Scalar")))(
        _bitwise(_name)
    )
    rule(getattr(aten, f"logical_{_name}").default)(_logical(f"logical_{_name}"))


@rule(aten.where.self)
def where(emit: Any, node: fx.Node, condition: Any, x: Any, other: Any) -> Any:
    x, other = operands(emit, node, x, other)
    chosen = emit.select(emit.convert(condition, torch.bool), x, other)
    return emit.broadcast(chosen, out_shape(node))


@rule(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(emit: Any, node: fx.Node, x: Any, mask: Any, value: Any) -> Any:
    if node.meta["phase"] == "backward" and isinstance(value, Number) and value == 0:
        return emit.drop_gradient(mask, x)
    x, value = operands(emit, node, x, value)
    return emit.select(mask, value, x)


@rule(aten.maximum.default)
def maximum(emit: Any, node: fx.Node, x: Any, other: Any) -> Any:
    larger = emit.native.logical_or if out_dtype(node) == torch.bool else emit.native.maximum
    return larger(*operands(emit, node, x, other))


@rule(aten.minimum.default)
def minimum(emit: Any, node: fx.Node, x: Any, other: Any) -> Any:
    smaller = emit.native.logical_and if out_dtype(node) == torch.bool else emit.native.minimum
    return smaller(*operands(emit, node, x, other))


@rule(aten.clamp.default, aten.clamp.Tensor)
def clamp(emit: Any, node: fx.Node, x: Any, low: Any, high: Any) -> Any:
    x = operand(emit, x, out_dtype(node))
    numbers = isinstance(low, Number) and isinstance(high, Number)
    if numbers and low <= high and out_dtype(node).is_floating_point:
        return emit.clamp(x, low, high)
    if low is not None:
        x = emit.native.maximum(x, operand(emit, low, out_dtype(node)))
    return x if high is None else emit.native.minimum(x, operand(emit, high, out_dtype(node)))


@rule(aten.clamp_min.default, aten.clamp_min.Tensor)
def clamp_min(emit: Any, node: fx.Node, x: Any, low: Any) -> Any:
    return clamp(emit, node, x, low, None)


@rule(aten.clamp_max.default, aten.clamp_max.Tensor)
def clamp_max(emit: Any, node: fx.Node, x: Any, high: Any) -> Any:
    return clamp(emit, node, x, None, high)


# ---------------------------------------------------------------- casts and copies


@moves(aten._to_copy.default)
def to_copy(emit: Any, node: fx.Node, x: Any, *layout: Any) -> Any:
    return emit.convert(x, out_dtype(node))


@moves(aten.clone.default)
def clone(emit: Any, node: fx.Node, x: Any, memory_format: Any) -> Any:
    return x


# ---------------------------------------------------------------- tensors of a known value


@moves(
    aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default, aten.empty.memory_format,
    aten.empty_like.default, aten.new_empty.default, aten._efficientzerotensor.default,
)  # fmt: skip
def zeros(emit: Any, node: fx.Node, *args: Any) -> Any:
    """Uninitialised memory becomes zeros, too: a static graph has nothing else to offer."""
    return emit.full(0, out_shape(node), out_dtype(node))


@moves(aten.ones.default, aten.ones_like.default, aten.new_ones.default)
def ones(emit: Any, node: fx.Node, *args: Any) -> Any:
    return emit.full(1, out_shape(node), out_dtype(node))


@moves(
    aten.full.default, aten.full_like.default, aten.new_full.default, aten.fill.Scalar,
    aten.scalar_tensor.default,
)  # fmt: skip
def full(emit: Any, node: fx.Node, *args: Any) -> Any:
    value = next(v for name, v in zip(_names(node), args) if name in ("fill_value", "value", "s"))
    return emit.full(value, out_shape(node), out_dtype(node))


def _names(node: fx.Node) -> list[str]:
    return [a.name for a in node.target._schema.arguments]  # pyright: ignore


@moves(
    aten.arange.default, aten.arange.start, aten.arange.start_step, aten.linspace.default, aten.eye.default,
    aten.eye.m,
)  # fmt: skip
def counted(emit: Any, node: fx.Node, *args: Any) -> Any:
    numbers = [a for a in node.args if isinstance(a, Number)]
    return emit.tensor(node.target(*numbers, dtype=out_dtype(node)))  # pyright: ignore
