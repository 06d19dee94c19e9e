"""Gradients of weights as early as they can be computed.

    dy → dx = mm(dy, w)  →  dw = mm(x, dy)        →        dy → dw = mm(x, dy)  →  dx = mm(dy, w)

Autograd computes dX before dW, which keeps the saved activation alive beside dX. Computing dW first frees
it earlier and never raises the peak.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import fx

from ...ir.graph import Graph
from ...ir.reachability import served_outputs


@dataclass(frozen=True)
class HoistWeightGradients:
    """Move what serves one gradient only to right after its operands."""

    name: ClassVar[str] = "hoist_weight_gradients"

    def __call__(self, graph: Graph) -> Graph:
        new = fx.Graph()
        new.output(new.graph_copy(graph.fx, {}))
        hoisted = replace(graph, fx=new)
        needs = served_outputs(hoisted)
        position = {node: i for i, node in enumerate(new.nodes)}
        for node in list(hoisted.nodes("backward")):
            if needs[node].bit_count() != 1 or not node.all_input_nodes:
                continue
            latest = max(node.all_input_nodes, key=lambda n: position[n])
            if latest.op == "placeholder" or latest.meta["phase"] == "forward":
                continue
            latest.append(node)
            position = {n: i for i, n in enumerate(new.nodes)}
        return hoisted
