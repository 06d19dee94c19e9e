"""Elementwise operators of the update on vectors, for runtimes whose kernels are slow on kernels' shapes.

    new = w - g * lr                 →   flat = reshape(w, [-1]) - reshape(g, [-1]) * lr
                                         new = reshape(flat, [O, I, 1, 1])

Kernels vectorise over the innermost dimensions: on a weight [O, I, 1, 1] or [O, I, 3, 3] OpenVINO's take
ten times as long as on the same numbers in a row, and ONNX Runtime's, with a scalar, seventy times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.graph import Builder, Graph, aten, rebuilt
from ...ir.operator_kinds import is_elementwise


@dataclass(frozen=True)
class FlattenUpdate:
    """Where a tensor has more than two dimensions, and every operand has its shape or is a scalar."""

    name: ClassVar[str] = "flatten_update"

    def __call__(self, graph: Graph) -> Graph:
        new = fx.Graph()
        new.output(new.graph_copy(graph.fx, {}))
        flat: dict[fx.Node, fx.Node] = {}
        for node in list(new.nodes):
            if _applies(node):
                _flatten(new, node, flat)
        new.eliminate_dead_code()
        return rebuilt(graph, new)


def _applies(node: fx.Node) -> bool:
    if node.op != "call_function" or node.meta["phase"] != "update" or not is_elementwise(node):
        return False
    size = node.meta["val"].shape
    return len(size) > 2 and all(tuple(n.meta["val"].shape) in (size, ()) for n in node.all_input_nodes)


def _flatten(graph: fx.Graph, node: fx.Node, flat: dict[fx.Node, fx.Node]) -> None:
    """Compute `node` on vectors; `flat` has the vector of every tensor that has one."""
    builder = Builder(graph, "update", node.meta["layer"], node.meta["source"])

    def vector(x: fx.Node) -> Any:
        if x.meta["val"].ndim and x not in flat:
            with builder.before(node):
                flat[x] = builder.call(aten.reshape.default, x, [-1])
        return flat.get(x, x)

    users, whole = list(node.users), node.meta["val"]
    node.args, node.kwargs = fx.map_arg((node.args, node.kwargs), vector)
    node.meta["val"] = torch.empty(whole.numel(), dtype=whole.dtype, device="meta")
    with builder.after(node):
        restored = builder.call(aten.reshape.default, node, list(whole.shape))
    for user in users:
        user.replace_input_with(node, restored)
    flat[restored] = node
