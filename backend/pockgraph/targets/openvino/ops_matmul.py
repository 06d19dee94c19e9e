"""Matrix products. Transposes stay separate nodes: OpenVINO folds them into its MatMul.

One trap: OpenVINO's CPU plugin (2026.4) packs a constant matrix once for `x Wᵀ` and takes the packed
copy for `dy W` as well when W is square: a wrong gradient, without a word. So a square constant is
stored a second time, transposed, for the product in which it stands as it is.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from . import emit
from .emit import Value, ov
from .rules import Context, rule

aten = torch.ops.aten


@rule(aten.mm.default, aten.bmm.default, aten.matmul.default)
def mm(ctx: Context, node: fx.Node, a: Value, b: Value) -> Value:
    if emit.rank(b) >= 2 and emit.shape(b)[-1] == emit.shape(b)[-2] and emit.is_constant(b):
        if isinstance(b.get_node(), ov.op.Constant):
            return emit.matmul(a, emit.array(np.swapaxes(b.get_node().data, -1, -2)), transpose_b=True)
        b = emit.own_copy(b)
    return emit.matmul(a, b)


@rule(aten.addmm.default, aten.baddbmm.default)
def addmm(ctx: Context, node: fx.Node, x: Value, a: Value, b: Value, beta: float, alpha: float) -> Value:
    product = emit.scale(mm(ctx, node, a, b), alpha)
    return product if beta == 0 else emit.add(product, emit.scale(x, beta))


@rule(aten.linear.default)
def linear(ctx: Context, node: fx.Node, x: Value, weight: Value, bias: Value | None) -> Value:
    y = emit.matmul(x, weight, transpose_b=True)
    return y if bias is None else emit.add(y, bias)


@rule(aten.dot.default, aten.vdot.default)
def dot(ctx: Context, node: fx.Node, a: Value, b: Value) -> Value:
    return emit.total(emit.mul(a, b), [0])


@rule(aten.mv.default)
def mv(ctx: Context, node: fx.Node, a: Value, x: Value) -> Value:
    return emit.reshape(emit.matmul(a, emit.unsqueeze(x, [1])), emit.shape(a)[:1])


@rule(aten.addmv.default)
def addmv(ctx: Context, node: fx.Node, y: Value, a: Value, x: Value, beta: float, alpha: float) -> Value:
    return emit.add(emit.scale(y, beta), emit.scale(mv(ctx, node, a, x), alpha))
