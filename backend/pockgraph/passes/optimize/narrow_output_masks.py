"""Backward operators with several results asked only for those that are still used.

dx, dw, db = convolution_backward(…, [True, True, True]);  dw used    →    … [False, True, False]
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from ...ir.graph import Graph, meta_like, rebuilt


@dataclass(frozen=True)
class NarrowOutputMasks:
    """Where the operator has an `output_mask`."""

    name: ClassVar[str] = "narrow_output_masks"

    def __call__(self, graph: Graph) -> Graph:
        new = fx.Graph()
        new.output(new.graph_copy(graph.fx, {}))
        for node in new.nodes:
            if node.op != "call_function" or node.target is operator.getitem:
                continue
            schema = getattr(node.target, "_schema", None)
            if schema is None or not schema.arguments or schema.arguments[-1].name != "output_mask":
                continue
            output_mask = [any(u.args[1] == i for u in node.users) for i in range(len(node.args[-1]))]
            if output_mask != list(node.args[-1]):
                node.args = (*node.args[:-1], output_mask)
                args = fx.map_arg(node.args, lambda n: n.meta["val"])
                node.meta["val"] = meta_like(node.target(*args))
        new.eliminate_dead_code()
        return rebuilt(graph, new)
