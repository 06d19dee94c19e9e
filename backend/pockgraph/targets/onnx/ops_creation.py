"""Operators that make tensors of a known value. Shapes are static, so they are constants."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from . import emit
from .rules import Context, moves
from .value import Value

aten = torch.ops.aten


def filled(node: fx.Node, value: complex) -> Value:
    val = node.meta["val"]
    return emit.full(value, tuple(val.shape), val.dtype)


@moves(
    aten.zeros.default,
    aten.zeros_like.default,
    aten.new_zeros.default,
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.new_empty.default,
    aten._efficientzerotensor.default,
)
def zeros(ctx: Context, node: fx.Node, *args: Any) -> Value:
    """Uninitialised memory becomes zeros, too: a static graph has nothing else to offer."""
    return filled(node, 0)


@moves(aten.ones.default, aten.ones_like.default, aten.new_ones.default)
def ones(ctx: Context, node: fx.Node, *args: Any) -> Value:
    return filled(node, 1)


@moves(aten.full.default, aten.full_like.default, aten.fill.Scalar)
def full(ctx: Context, node: fx.Node, size: Any, value: complex, *layout: Any) -> Value:
    return filled(node, value)


@moves(aten.new_full.default)
def new_full(ctx: Context, node: fx.Node, x: Value, size: Any, value: complex, *layout: Any) -> Value:
    return filled(node, value)


@moves(aten.fill.Tensor)
def fill(ctx: Context, node: fx.Node, x: Value, value: Value) -> Value:
    return emit.broadcast(emit.convert(value, emit.dtype(x)), emit.shape(x))


@moves(aten.scalar_tensor.default)
def scalar_tensor(ctx: Context, node: fx.Node, value: complex, *layout: Any) -> Value:
    return filled(node, value)


@moves(aten.arange.default, aten.arange.start, aten.arange.start_step)
def arange(ctx: Context, node: fx.Node, *args: Any) -> Value:
    bounds = [a for a in node.args if isinstance(a, int | float)]
    return emit.tensor(torch.arange(*bounds, dtype=node.meta["val"].dtype))


@moves(aten.linspace.default)
def linspace(ctx: Context, node: fx.Node, start: float, end: float, steps: int, *layout: Any) -> Value:
    return emit.tensor(torch.linspace(start, end, steps, dtype=node.meta["val"].dtype))


@moves(aten.eye.default, aten.eye.m)
def eye(ctx: Context, node: fx.Node, *args: Any) -> Value:
    val = node.meta["val"]
    return emit.tensor(torch.eye(*val.shape, dtype=val.dtype))
