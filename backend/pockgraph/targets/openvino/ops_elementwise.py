"""Elementwise operators that OpenVINO has in a form of its own; the others are those of every target."""

from __future__ import annotations

from typing import Any

from torch import fx

from ...ir.graph import aten
from ..shared.elementwise import floating
from .emitter import Value, emit, op
from .openvino_rules import Context, check, rule

_UNARY: dict[Any, Any] = {
    aten.silu.default: op.swish,
    aten.mish.default: op.mish,
    aten.hardswish.default: op.hswish,
    aten.hardsigmoid.default: lambda x: op.hard_sigmoid(x, emit.scalar(1 / 6, x), emit.scalar(0.5, x)),
    aten.round.default: lambda x: op.round(x, "half_to_even"),
}
for _overload, _function in _UNARY.items():
    rule(_overload)(lambda ctx, node, x, f=_function: f(x).output(0))


@rule(aten.gelu.default)
def gelu(ctx: Context, node: fx.Node, x: Value, approximate: str) -> Value:
    return op.gelu(x, "tanh" if approximate == "tanh" else "erf").output(0)


@rule(aten.leaky_relu.default)
def leaky_relu(ctx: Context, node: fx.Node, x: Value, slope: float) -> Value:
    return op.prelu(x, emit.const([slope], emit.dtype(x))).output(0)


check(aten.gelu.default, aten.leaky_relu.default)(floating)
