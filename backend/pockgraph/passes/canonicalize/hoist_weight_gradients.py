"""Gradients of weights as early as they can be computed."""

from __future__ import annotations

from dataclasses import replace

from ...ir.graph import Graph


def hoist_weight_gradients(graph: Graph) -> Graph:
    """Move what serves one gradient only to right behind its operands.

    Autograd computes dX before dW, which keeps the saved activation alive beside dX. Computing dW
    first frees it earlier and never raises the peak.
    """
    from ...ir.reachability import dependence

    needs = dependence(graph)
    position = {node: i for i, node in enumerate(graph.fx.nodes)}
    for node in list(graph.nodes("backward")):
        if needs[node].bit_count() != 1 or not node.all_input_nodes:
            continue
        latest = max(node.all_input_nodes, key=lambda n: position[n])
        if latest.op == "placeholder" or latest.meta["phase"] == "forward":
            continue
        latest.append(node)
        position = {n: i for i, n in enumerate(graph.fx.nodes)}
    graph.fx.lint()
    return replace(graph)
