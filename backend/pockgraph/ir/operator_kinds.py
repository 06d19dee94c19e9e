"""Which operators are views, and which map each element on its own."""

from __future__ import annotations

import operator

import torch
from torch import fx

from .graph import aten

VIEWS = frozenset({
    aten.reshape.default, aten.permute.default, aten.expand.default, aten.unsqueeze.default,
    aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.slice.Tensor, aten.select.int,
    aten.view.default, aten.t.default, aten.transpose.int, aten.detach.default, aten.alias.default,
    aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int,
})  # fmt: skip


def is_elementwise(node: fx.Node) -> bool:
    """Does the operator map each element on its own, so that it may write over an operand?"""
    tags = getattr(node.target, "tags", ())
    return torch.Tag.pointwise in tags or node.target in (
        aten.hardtanh_backward.default, aten.threshold_backward.default, aten.gelu_backward.default,
        aten.masked_fill.Scalar, aten.where.self, aten._to_copy.default, aten.clone.default,
    )  # fmt: skip


def storage_of(node: fx.Node) -> fx.Node:
    """The node that owns the memory a view looks at."""
    while node.op == "call_function" and is_view(node):
        node = node.args[0]  # pyright: ignore
    return node


def is_view(node: fx.Node) -> bool:
    """Views, and the pieces of an operator that returns several views."""
    return node.target in VIEWS or (node.target is operator.getitem and node.args[0].target in VIEWS)  # pyright: ignore
