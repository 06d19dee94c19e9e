"""Elementwise operators that ONNX has in a form of its own; the others are those of every target."""

from __future__ import annotations

from torch import fx

from ...ir.graph import aten
from ..shared.elementwise import floating
from . import op
from .onnx_rules import Context, check, rule
from .value import Value

for _overload, _function in {
    aten.hardsigmoid.default: op.hard_sigmoid,
    aten.round.default: op.round_half_to_even,
}.items():
    rule(_overload)(lambda ctx, node, x, f=_function: f(x))


@rule(aten.leaky_relu.default)
def leaky_relu(ctx: Context, node: fx.Node, x: Value, slope: float) -> Value:
    return op.leaky_relu(x, slope)


check(aten.leaky_relu.default)(floating)
