"""Layer norm and softmax. ONNX's LayerNormalization gives the statistics that ATen returns, too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from . import emit, op
from .rules import Context, rule
from .value import Value

aten = torch.ops.aten


# ---------------------------------------------------------------- layer norm


@rule(aten.native_layer_norm.default)
def layer_norm(
    ctx: Context,
    node: fx.Node,
    x: Value,
    size: Sequence[int],
    weight: Value | None,
    bias: Value | None,
    eps: float,
) -> tuple[Value, Value, Value]:
    gain = emit.full(1, size, emit.dtype(x)) if weight is None else weight
    y, center, rstd = op.layer_norm(x, gain, bias, emit.rank(x) - len(size), eps)
    return y, center, rstd


# ---------------------------------------------------------------- softmax


@rule(aten._softmax.default)
def softmax(ctx: Context, node: fx.Node, x: Value, dim: int, half_to_float: bool) -> Value:
    return op.softmax(emit.convert(x, node.meta["val"].dtype), emit.axis(dim, emit.rank(x)))


@rule(aten._log_softmax.default)
def log_softmax(ctx: Context, node: fx.Node, x: Value, dim: int, half_to_float: bool) -> Value:
    return op.log_softmax(emit.convert(x, node.meta["val"].dtype), emit.axis(dim, emit.rank(x)))
