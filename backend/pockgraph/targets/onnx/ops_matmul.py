"""Matrix products. Transposes stay separate nodes: runtimes fold them into their matrix product."""

from __future__ import annotations

import torch
from torch import fx

from . import emit
from .rules import Context, rule
from .value import Value

aten = torch.ops.aten


@rule(aten.mm.default, aten.bmm.default, aten.matmul.default)
def mm(ctx: Context, node: fx.Node, a: Value, b: Value) -> Value:
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
