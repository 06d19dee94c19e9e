"""Splits, repeats and gathers of elements; `targets/shared` has the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..shared.layout import cut
from . import emit
from .emit import Value, op
from .rules import Context, rule

aten = torch.ops.aten


@rule(aten.slice.Tensor)
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
    return tuple(op.variadic_split(x, emit.ints(dim), emit.ints(list(sizes))).outputs())


@rule(aten.repeat.default)
def repeat(ctx: Context, node: fx.Node, x: Value, times: Sequence[int]) -> Value:
    x = emit.reshape(x, [*[1] * (len(times) - emit.rank(x)), *emit.shape(x)])
    return op.tile(x, emit.ints(list(times))).output(0) if times else x


@rule(aten.gather.default)
def gather(ctx: Context, node: fx.Node, x: Value, dim: int, index: Value, sparse_grad: bool) -> Value:
    dim, out = emit.axis(dim, emit.rank(x)), emit.shape(index)
    if x.get_node().get_type_name() == "Slice":
        # OpenVINO takes a slice in front of GatherElements to be superfluous: one more dimension hides it.
        x, index, dim = emit.unsqueeze(x, [0]), emit.unsqueeze(index, [0]), dim + 1
    for d, size in enumerate(emit.shape(index)):
        rest = emit.shape(x)[d] - size
        if d != dim and rest:
            # A split, for a slice would be superfluous, too.
            x = op.variadic_split(x, emit.ints(d), emit.ints([size, rest])).output(0)
    return emit.reshape(op.gather_elements(x, index, dim).output(0), out)
