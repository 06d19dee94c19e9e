"""Which outputs does each node serve? The question that pruning, scheduling and costs share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from .graph import Graph, Role
from .operator_kinds import is_view


def served_outputs(graph: Graph, only: Mapping[fx.Node, int] | None = None) -> dict[fx.Node, int]:
    """Node -> bit set over the graph's outputs (bit i: output i) that need the node.

    The loss, the metric, predictions and new values of buffers are not counted: every plan has them.

    Args:
        only: nodes that count for the given outputs, whatever reads them.
    """
    needs: dict[fx.Node, int] = dict.fromkeys(graph.fx.nodes, 0)
    for i, (slot, node) in enumerate(zip(graph.outputs, graph.results.values(), strict=True)):
        if slot.role not in (Role.LOSS, Role.METRIC, Role.PREDICTION, Role.NEW_BUFFER):
            needs[node] |= 1 << i
    for node in reversed(graph.fx.nodes):
        if only and node in only:
            needs[node] = only[node]
        if node.op != "output":
            for operand in node.all_input_nodes:
                needs[operand] |= needs[node]
    return needs


def ancestors(*nodes: fx.Node) -> set[fx.Node]:
    """The nodes, and all that they are computed from."""
    found: set[fx.Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += node.all_input_nodes
    return found


def readers_after_forward(value: fx.Node) -> set[fx.Node]:
    """The operators after the forward pass that read one of its values, or a view of it."""
    found: set[fx.Node] = set()
    for user in value.users:
        if user.op != "call_function":
            continue
        if user.meta["phase"] != "forward":
            found.add(user)
        elif is_view(user):
            found |= readers_after_forward(user)
    return found
