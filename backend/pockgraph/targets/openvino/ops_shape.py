"""Gathers of elements; `targets/shared` has what else moves them."""

from __future__ import annotations

import torch
from torch import fx

from .emitter import Value, emit, ints, op
from .openvino_rules import Context, rule

aten = torch.ops.aten


@rule(aten.gather.default)
def gather(ctx: Context, node: fx.Node, x: Value, dim: int, index: Value, sparse_grad: bool) -> Value:
    dim, out = emit.axis(dim, emit.rank(x)), emit.shape(index)
    if x.get_node().get_type_name() == "Slice":
        # OpenVINO takes a slice in front of GatherElements to be superfluous: one more dimension hides it.
        x, index, dim = emit.unsqueeze(x, [0]), emit.unsqueeze(index, [0]), dim + 1
    for d, size in enumerate(emit.shape(index)):
        rest = emit.shape(x)[d] - size
        if d != dim and rest:
            # A split, for a slice would be superfluous, too.
            x = op.variadic_split(x, ints(d), ints([size, rest])).output(0)
    return emit.reshape(op.gather_elements(x, index, dim).output(0), out)
