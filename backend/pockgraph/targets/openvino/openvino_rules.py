"""The table that OpenVINO's rules are entered in; they stand in `ops_*.py` and `targets/shared/`.

A rule lowers one ATen overload. It gets the arguments of the call in the order of the operator's
schema, defaults filled in, tensors as `ov.Output`s:

    @rule(aten.neg.default)
    def neg(ctx, node, x):
        return op.negative(x).output(0)

Arguments that a rule cannot take are refused by a `check`, before anything is lowered. So are dtypes that
OpenVINO computes in another one: float16 in float32, narrow integers without wrapping around.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from ...ir.graph import aten
from ..rule_table import Context, RuleTable, dtypes_of
from .emitter import OV_TYPES

_NARROW = (torch.uint8, torch.int8, torch.int16)
_ARITHMETIC = {
    aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Scalar, aten.mul.Tensor,
    aten.mul.Scalar, aten.neg.default, aten.abs.default, aten.pow.Tensor_Scalar, aten.bitwise_not.default,
    aten.cumsum.default, aten.sum.default, aten.sum.dim_IntList, aten.bmm.default, aten.mm.default,
}  # fmt: skip
_PRODUCTS = {
    aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default, aten.convolution.default
}  # fmt: skip


class _Table(RuleTable):
    def refusal(self, node: fx.Node) -> str:
        reason = super().refusal(node)
        if reason or node.target is operator.getitem:
            return reason
        if node.target in _PRODUCTS and any(not n.meta["val"].numel() for n in node.all_input_nodes):
            return (
                "OpenVINO multiplies no tensors without elements; leave the layer out, or take target 'onnx'"
            )
        made = dtypes_of(node)
        if torch.float16 in made:
            return (
                "OpenVINO computes what is float16 in float32, without PyTorch's rounding; "
                "leave the cast out, or use the option `precision` for cheaper activations"
            )
        if node.target in _ARITHMETIC and (narrow := [d for d in made if d in _NARROW]):
            return (
                f"OpenVINO does not wrap around in {narrow[0]} as PyTorch does; cast with .int() or .float() "
                "before it computes"
            )
        return ""


TABLE = _Table("OpenVINO", OV_TYPES)
RULES, rule, check = TABLE.rules, TABLE.rule, TABLE.check

__all__ = ["RULES", "TABLE", "Context", "check", "rule"]
