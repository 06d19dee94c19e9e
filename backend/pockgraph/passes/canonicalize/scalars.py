"""Operators along a dimension of a tensor that has none: ATen takes a number as a line of one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from ...ir.graph import Builder, aten
from .normalization import take
from .rule_table import rule


@rule(
    aten._softmax.default, aten._log_softmax.default, aten._softmax_backward_data.default,
    aten._log_softmax_backward_data.default, aten.logsumexp.default, aten.linalg_vector_norm.default,
    aten.sum.dim_IntList, aten.mean.dim, aten.amax.default, aten.amin.default, aten.prod.dim_int,
    aten.any.dim, aten.any.dims, aten.all.dim, aten.all.dims, aten.max.dim, aten.min.dim,
    aten.argmax.default, aten.argmin.default, aten.sort.default, aten.sort.stable, aten.topk.default,
    aten.kthvalue.default, aten.median.dim, aten.cummax.default, aten.cummin.default, aten.flip.default,
    aten.index_select.default, aten.gather.default, aten.scatter.src, aten.scatter.value,
    aten.scatter_add.default,
)  # fmt: skip
def along_no_dimension(b: Builder, node: fx.Node) -> Any:
    x: Any = node.args[0]
    if x.meta["val"].ndim:
        return None

    def line(n: fx.Node) -> fx.Node:
        return n if n.meta["val"].ndim else b.call(aten.reshape.default, n, [1])

    args, kwargs = fx.map_arg((node.args, node.kwargs), line)
    made = b.call(node.target, *args, **kwargs)
    val = node.meta["val"]
    if isinstance(val, torch.Tensor):
        return _shaped(b, made, val)
    return {i: _shaped(b, take(b, made, i), v) for i, v in enumerate(val)}


def _shaped(b: Builder, made: fx.Node, val: torch.Tensor) -> fx.Node:
    assert math.prod(made.meta["val"].shape) == math.prod(val.shape)
    return b.call(aten.reshape.default, made, list(val.shape))
