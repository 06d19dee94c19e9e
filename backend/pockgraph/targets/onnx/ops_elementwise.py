"""Elementwise operators that ONNX has in a form of its own; the others are those of every target."""

from __future__ import annotations

from types import SimpleNamespace

from torch import fx

from ...ir.graph import aten
from .. import elementwise, indexing, layout, pooling, reduction, shared_rules  # noqa: F401  they register themselves
from . import emit, masking, op
from .rules import TABLE, Context, check, rule
from .value import Value

for _overload, _function in {
    aten.hardsigmoid.default: op.hard_sigmoid,
    aten.round.default: op.round_half_to_even,
}.items():
    rule(_overload)(lambda ctx, node, x, f=_function: f(x))


@rule(aten.leaky_relu.default)
def leaky_relu(ctx: Context, node: fx.Node, x: Value, slope: float) -> Value:
    return op.leaky_relu(x, slope)


check(aten.leaky_relu.default)(elementwise.floating)
shared_rules.add_to(TABLE, SimpleNamespace(**{**vars(emit), **vars(masking)}))
