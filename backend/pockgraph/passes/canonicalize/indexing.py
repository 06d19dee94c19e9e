"""Indices that only reshape."""

from __future__ import annotations

import math

import torch
from torch import fx

from ...ir.graph import Builder, Graph, aten, rebuilt


def plain_index(graph: Graph) -> Graph:
    """Index tensors that run over a whole dimension each, one after the other, only add sizes of one.

    Libraries make an attention mask so: `mask[arange(N)[:, None, None, None], arange(T)]`, with
    indices that broadcast to `[N, 1, 1, T]`. After constants are folded, so that the indices are known.
    """
    constants = {node: graph.values.get(name) for name, node in graph.placeholders.items()}
    for node in graph.fx.find_nodes(op="call_function", target=aten.index.Tensor):
        x, indices = node.args
        values = [constants.get(i) if isinstance(i, fx.Node) else None for i in indices]
        if not _are_whole_ranges(values, tuple(x.meta["val"].shape), tuple(node.meta["val"].shape)):
            continue
        b = Builder(graph.fx, node.meta["phase"], node.meta["layer"], node.meta["source"])
        with b.before(node):
            node.replace_all_uses_with(b.call(aten.reshape.default, x, list(node.meta["val"].shape)))
        graph.fx.erase_node(node)
    graph.fx.eliminate_dead_code()
    return rebuilt(graph, graph.fx)


def _are_whole_ranges(
    indices: list[torch.Tensor | None], size: tuple[int, ...], result: tuple[int, ...]
) -> bool:
    """Is `x[indices]`, x of `size`, x itself with some sizes of one between its dimensions?"""
    if len(indices) != len(size) or math.prod(size) != math.prod(result):
        return False
    along = -1
    for index, n in zip(indices, size):
        if index is None or index.dtype not in (torch.int64, torch.int32):
            return False
        if not torch.equal(index.flatten(), torch.arange(n, dtype=index.dtype)):
            return False
        # Where it stands in the result, counted from the end as broadcasting does.
        at = [d - index.ndim + len(result) for d, s in enumerate(index.shape) if s > 1]
        if at and at[0] <= along:
            return False
        along = max([along, *at])
    return True
