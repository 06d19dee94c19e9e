"""The softmax of attention without its special case."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from ...ir.graph import Builder, Graph, aten


def plain_softmax(graph: Graph) -> Graph:
    """Attention's softmax, which is zero where everything is -inf, in terms of the ordinary one.

    After constants are folded, so that a causal mask is seen to leave something in every row.
    """
    constants = {node: graph.values.get(name) for name, node in graph.placeholders.items()}
    for node in graph.fx.find_nodes(op="call_function", target=aten._safe_softmax.default):
        args: Any = node.args
        x, dim = args[:2]
        b = Builder(graph.fx, node.meta["phase"], node.meta["layer"], node.meta["source"])
        with b.before(node):
            if node.meta["val"].dtype != x.meta["val"].dtype:
                x = b.call(aten._to_copy.default, x, dtype=node.meta["val"].dtype)
            result = b.call(aten._softmax.default, x, dim, False)
            last = dim in (-1, x.meta["val"].ndim - 1)
            if not last or not _leaves_something(x, constants):
                empty = b.call(aten.eq.Scalar, b.call(aten.amax.default, x, [dim], True), -math.inf)
                result = b.call(aten.masked_fill.Scalar, result, empty, 0.0)
        node.replace_all_uses_with(result)
        graph.fx.erase_node(node)
    return replace(graph)


def _leaves_something(x: Any, constants: Mapping[fx.Node, torch.Tensor | None]) -> bool:
    """Is it plain that no row of scores (along the last dimension) is -inf throughout?"""
    shape = x.meta["val"].shape
    if x.target in (aten.bmm.default, aten.mm.default):
        return True
    if x.target in (aten.reshape.default, aten.clone.default):
        return shape[-1] == x.args[0].meta["val"].shape[-1] and _leaves_something(x.args[0], constants)
    if x.target is aten.add.Tensor:
        scores, mask = x.args
        value = constants.get(mask)
        empty = value is None or bool((value.expand(shape) == -math.inf).all(-1).any())
        return not empty and _leaves_something(scores, constants)
    return False
