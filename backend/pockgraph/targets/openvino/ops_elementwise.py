"""Elementwise operators that OpenVINO has and ONNX (opset 18) has not; the others are those of both."""

from __future__ import annotations

from typing import Any

from torch import fx

from ...ir.graph import aten
from ..shared.elementwise import floating
from .emitter import Value, op
from .openvino_rules import Context, check, rule

_UNARY: dict[Any, Any] = {
    aten.silu.default: op.swish,
    aten.mish.default: op.mish,
    aten.hardswish.default: op.hswish,
}
for _overload, _function in _UNARY.items():
    rule(_overload)(lambda ctx, node, x, f=_function: f(x).output(0))


@rule(aten.gelu.default)
def gelu(ctx: Context, node: fx.Node, x: Value, approximate: str) -> Value:
    return op.gelu(x, "tanh" if approximate == "tanh" else "erf").output(0)


check(aten.gelu.default)(floating)
