"""Matrix products. Transposes stay separate nodes: runtimes fold them into their matrix product."""

from __future__ import annotations

import torch
from torch import fx

from .emitter import emit
from .onnx_rules import Context, rule
from .value import Value

aten = torch.ops.aten


@rule(aten.mm.default, aten.bmm.default)
def mm(ctx: Context, node: fx.Node, a: Value, b: Value) -> Value:
    return emit.matmul(a, b)
