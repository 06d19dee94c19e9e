"""Splits, repeats and gathers of elements; `targets/shared` has the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..shared.layout import cut
from . import emit, op
from .rules import Context, moves, rule
from .value import Value

aten = torch.ops.aten


@moves(aten.slice.Tensor)
def slice_tensor(ctx: Context, node: fx.Node, *args: Any) -> Value:
    return cut(emit, ctx.values, node)


@rule(aten.split.Tensor)
def split(ctx: Context, node: fx.Node, x: Value, size: int, dim: int) -> tuple[Value, ...]:
    return _split(x, [tuple(v.shape)[dim] for v in node.meta["val"]], dim)


@rule(aten.split_with_sizes.default)
def split_with_sizes(
    ctx: Context, node: fx.Node, x: Value, sizes: Sequence[int], dim: int
) -> tuple[Value, ...]:
    return _split(x, sizes, dim)


def _split(x: Value, sizes: Sequence[int], dim: int) -> tuple[Value, ...]:
    if len(sizes) == 1:
        return (x,)
    return op.split(x, sizes, emit.axis(dim, emit.rank(x)))


@rule(aten.repeat.default)
def repeat(ctx: Context, node: fx.Node, x: Value, times: Sequence[int]) -> Value:
    x = emit.reshape(x, [*[1] * (len(times) - emit.rank(x)), *emit.shape(x)])
    return op.tile(x, times) if times else x


@rule(aten.gather.default)
def gather(ctx: Context, node: fx.Node, x: Value, dim: int, index: Value, sparse_grad: bool) -> Value:
    dim = emit.axis(dim, emit.rank(x))
    for d, size in enumerate(emit.shape(index)):
        if d != dim and size < emit.shape(x)[d]:
            x = emit.cut(x, d, 0, size)
    return op.gather_elements(x, index, dim)
