"""Activations whose gradient needs less than autograd saves."""

from __future__ import annotations

from typing import Any

from torch import fx

from ...ir.graph import Builder, aten
from .rule_table import rule


@rule(aten.hardtanh_backward.default)
def _hardtanh_backward(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    dy, x, low, high = args
    for user in x.users:
        if user.target is aten.hardtanh.default and tuple(user.args[1:]) == (low, high):
            return b.call(aten.hardtanh_backward.default, dy, user, low, high)
    return None


@rule(aten._prelu_kernel.default)
def _prelu(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    x, w = args
    return b.call(aten.where.self, b.call(aten.gt.Scalar, x, 0), x, b.call(aten.mul.Tensor, w, x))


@rule(aten._prelu_kernel_backward.default)
def _prelu_backward(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    dy, x, w = args
    positive = b.call(aten.gt.Scalar, x, 0)
    dx = b.call(aten.where.self, positive, dy, b.call(aten.mul.Tensor, w, dy))
    dw = b.call(aten.masked_fill.Scalar, b.call(aten.mul.Tensor, dy, x), positive, 0.0)
    return {0: dx, 1: dw}
