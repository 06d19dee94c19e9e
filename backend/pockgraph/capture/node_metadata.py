"""Phase, layer and source of each node of a trace."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from ..ir.graph import Role, Slot, aten, meta_like
from ..ir.reachability import ancestors

LEAF = (aten.t.default, aten.transpose.int, aten.permute.default, aten.view.default, aten.detach.default)
VIEWS = (*LEAF, aten.reshape.default, aten._unsafe_view.default, operator.getitem)


def annotate(graph: fx.Graph, slots: list[Slot], outputs: list[Slot], outside: str) -> None:
    """Replace tracing's metadata by ours: val, phase, layer, source.

    `outside` is the source of what runs around the user's lines.

    A buffer's new value belongs to the forward pass, also where it is computed after the loss.

    Autograd's nodes carry no module. One belongs to the module of the parameter it reads, else to that
    of the saved activation, else to that of the gradient it continues.
    """
    result: Any = graph.output_node().args[0][0]  # pyright: ignore
    while result.target in (aten.detach.default, aten.view.default, aten.reshape.default):
        result = result.args[0]
    results = zip(outputs, graph.output_node().args[0])  # pyright: ignore
    early = {n for s, node in results if s.role is Role.NEW_BUFFER for n in ancestors(node)}
    owner: dict[fx.Node, tuple[str, str]] = {}
    weights: set[fx.Node] = set()
    anchors: set[fx.Node] = set()
    past_loss = False
    placeholders = iter(slots)
    for node in graph.nodes:
        meta, node.meta = node.meta, {}
        if node.op == "output":
            continue
        node.meta["val"] = meta_like(meta.get("val"))
        if node.op == "placeholder":
            slot = next(placeholders)
            if slot.role is Role.PARAM:
                owner[node] = (slot.fqn.rpartition(".")[0], "")
                weights.add(node)
            continue
        phase = "backward" if past_loss and node not in early else "forward"
        layer, source = layer_of(meta), source_of(meta) or outside
        if phase == "backward":
            known = sorted((a for a in node.all_input_nodes if a in owner),
                           key=lambda a: (a not in weights, a not in anchors))  # fmt: skip
            layer, source = owner[known[0]] if known else ("", "")
        elif node.target is aten.detach.default and node.args[0] in weights:
            layer = owner[node.args[0]][0]  # the leaf that autograd differentiates by
        owner[node] = (layer, source)
        if node.target in LEAF and node.args[0] in weights:
            weights.add(node)
        if phase == "forward" or (node.target in LEAF and node.args[0] in anchors):
            anchors.add(node)
        # A second result of the last forward operator is unpacked after the loss, and still forward.
        unpacks = node.target is operator.getitem
        node.meta.update(phase=node.args[0].meta["phase"] if unpacks else phase, layer=layer, source=source)
        past_loss = past_loss or node is result


def claim_gradients(graph: fx.Graph, outputs: list[Slot]) -> None:
    """Give what computes one parameter's gradient and nothing else to that parameter's module.

    From the gradient up through views to the first operator that computes: the dW or db.
    """
    for slot, node in zip(outputs, graph.output_node().args[0]):  # pyright: ignore
        while slot.role is Role.GRAD and len(node.users) == 1 and node.op == "call_function":
            node.meta["layer"] = slot.fqn.rpartition(".")[0]
            if node.target not in VIEWS:
                break
            node = node.args[0]


def layer_of(meta: dict[str, Any]) -> str:
    return (meta.get("custom") or {}).get("layer", "")


def source_of(meta: dict[str, Any]) -> str:
    """`file:line` of the user's code that the operator was called from, or empty."""
    return (meta.get("custom") or {}).get("source", "")
