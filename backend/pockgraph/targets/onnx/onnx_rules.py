"""The rules of this target: `rule` and `check` register them, see `targets.rule_table`.

A rule gets tensors as `Value`s:

    @rule(aten.neg.default)
    def neg(ctx, node, x):
        return op.negative(x)

Arithmetic is done in float32, int64, int32 and bool, for which ONNX Runtime has kernels of every operator
here. Other dtypes may be stored, moved and cast, by the rules marked `moves`.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from ..rule_table import Context, RuleTable, dtypes_of
from .emitter import TYPES

COMPUTED = (torch.float32, torch.int64, torch.int32, torch.bool)


class _Table(RuleTable):
    def refusal(self, node: fx.Node) -> str:
        reason = super().refusal(node)
        if reason or node.target in self.moving or node.target is operator.getitem:
            return reason
        for dtype in (d for n in (node, *node.all_input_nodes) for d in dtypes_of(n)):
            if dtype not in COMPUTED:
                cast = ".float()" if dtype.is_floating_point else ".int()"
                return (
                    f"ONNX Runtime computes it in float32, int64 or int32, not in {dtype}; cast with {cast} "
                    "before it"
                )
        return ""


TABLE = _Table("ONNX", TYPES)
RULES, rule, moves, check = TABLE.rules, TABLE.rule, TABLE.moves, TABLE.check

__all__ = ["RULES", "TABLE", "Context", "check", "moves", "rule"]
