"""Matrix products by square constants.

OpenVINO's CPU plugin (2026.4) packs a constant matrix once for `x Wᵀ` and takes the packed
copy for `dy W` as well when W is square: a wrong gradient, without a word. So a square constant is
stored a second time, transposed, for the product in which it stands as it is.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from .emitter import Value, array, emit, is_constant, ov
from .int8_weights import int8_product
from .openvino_rules import Context, rule

aten = torch.ops.aten


@rule(aten.mm.default, aten.bmm.default)
def mm(ctx: Context, node: fx.Node, a: Value, b: Value) -> Value:
    if (product := int8_product(ctx, node, a)) is not None:
        return product
    if emit.rank(b) >= 2 and emit.shape(b)[-1] == emit.shape(b)[-2] and is_constant(b):
        if isinstance(b.get_node(), ov.op.Constant):
            return emit.matmul(a, array(np.swapaxes(b.get_node().data, -1, -2)), transpose_b=True)
        b = emit.own_copy(b)
    return emit.matmul(a, b)
