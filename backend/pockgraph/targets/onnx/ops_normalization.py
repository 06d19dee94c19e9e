"""Layer norm. ONNX's LayerNormalization gives the statistics that ATen returns, too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from . import op
from .emitter import emit
from .onnx_rules import Context, rule
from .value import Value

aten = torch.ops.aten


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
