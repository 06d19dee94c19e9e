"""Floating-point operations of a graph's nodes."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.utils.flop_counter import flop_registry

from ..ir.graph import aten
from ..ir.operator_kinds import VIEWS
from ..recurrent.operators import WEIGHTS
from ..recurrent.operators import flops as recurrent_flops

REDUCTIONS = (aten.sum.dim_IntList, aten.sum.default, aten.mean.dim, aten.mean.default, aten.amax.default,
              aten.var.correction)  # fmt: skip


def node_flops(node: fx.Node) -> int:
    """Floating-point operations of one node.

    A multiply-add counts two, an elementwise result or a reduced element one.
    """
    if node.target in VIEWS or node.target is operator.getitem:
        return 0
    if node.target is aten.convolution_backward.default:
        return _weight_gradient_flops(node)
    if node.target in WEIGHTS:
        return recurrent_flops(node.target, fx.map_arg(node.args, lambda n: n.meta["val"]))
    formula = flop_registry.get(getattr(node.target, "overloadpacket", node.target))
    if formula is None:
        if isinstance(node.meta["val"], tuple) or node.target in REDUCTIONS:
            return max((_elements(a.meta["val"]) for a in node.all_input_nodes), default=0)
        return _elements(node.meta["val"])
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    return int(formula(*args, **kwargs, out_val=node.meta["val"]))


def _weight_gradient_flops(node: fx.Node) -> int:
    dy, x, w = (a.meta["val"].shape for a in node.args[:3])  # pyright: ignore
    spatial = (x if node.args[7] else dy)[2:]
    return 2 * dy[0] * int(torch.tensor(spatial).prod()) * int(torch.tensor(w).prod())


def _elements(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel()
    return max((_elements(v) for v in value), default=0) if isinstance(value, tuple) else 0
