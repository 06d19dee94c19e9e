"""Gathers of elements; `targets/shared` has what else moves them."""

from __future__ import annotations

import torch
from torch import fx

from . import op
from .emitter import emit
from .onnx_rules import Context, rule
from .value import Value

aten = torch.ops.aten


@rule(aten.gather.default)
def gather(ctx: Context, node: fx.Node, x: Value, dim: int, index: Value, sparse_grad: bool) -> Value:
    dim = emit.axis(dim, emit.rank(x))
    for d, size in enumerate(emit.shape(index)):
        if d != dim and size < emit.shape(x)[d]:
            x = emit.cut(x, d, 0, size)
    return op.gather_elements(x, index, dim)
