"""Lookups in tables, some of which are kept in int8."""

from __future__ import annotations

import torch
from torch import fx

from ...ir.graph import aten
from .emitter import Value, emit
from .int8_weights import int8_parts
from .openvino_rules import Context, rule


@rule(aten.embedding.default)
def embedding(
    ctx: Context, node: fx.Node, weight: Value, index: Value, padding_idx: int, scale: bool, sparse: bool
) -> Value:
    parts = int8_parts(ctx, node.args[0])  # pyright: ignore
    if parts is None:
        return emit.native.gather(weight, index, 0)
    numbers, scales = (emit.native.gather(p, index, 0) for p in parts)
    return emit.mul(emit.convert(numbers, torch.float32), scales)
