"""One boolean an element kept for the backward pass, where a clamped activation is kept for nothing else.

    y = relu(x)                          →    y = relu(x);  outside = y <= 0
    dx = threshold_backward(dy, y, 0)    →    dx = masked_fill(dy, outside, 0)

`outside`, one byte an element, is computed in the forward pass and `y` is freed there. A y that is saved
anyway costs nothing more to compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from ...ir.graph import Builder, Graph, aten, rebuilt

_MASKED = (aten.hardtanh_backward.default, aten.threshold_backward.default)


@dataclass(frozen=True)
class KeepMasks:
    """Of `hardtanh_backward(dy, y)` and `threshold_backward(dy, y)`."""

    name: ClassVar[str] = "keep_masks"

    def __call__(self, graph: Graph) -> Graph:
        new = fx.Graph()
        new.output(new.graph_copy(graph.fx, {}))
        for node in list(new.nodes):
            if node.target in _MASKED:
                _mask(new, node)
        new.eliminate_dead_code()
        return rebuilt(graph, new)


def _mask(graph: fx.Graph, node: fx.Node) -> None:
    dy, y, *bounds = node.args
    call: Any = y
    if call.op != "call_function" or call.meta["phase"] != "forward":
        return
    if any(u.target not in _MASKED and _reads_late(u) for u in call.users):
        return
    forward = Builder(graph, "forward", call.meta["layer"], call.meta["source"])
    with forward.after(call):
        outside = forward.call(aten.le.Scalar, call, bounds[0])
    if len(bounds) == 2:
        with forward.after(outside):
            above = forward.call(aten.ge.Scalar, call, bounds[1])
        with forward.after(above):
            outside = forward.call(aten.logical_or.default, outside, above)
    backward = Builder(graph, "backward", node.meta["layer"], node.meta["source"])
    with backward.before(node):
        masked = backward.call(aten.masked_fill.Scalar, dy, outside, 0.0)
    if "gradient_of" in node.meta:
        masked.meta["gradient_of"] = node.meta["gradient_of"]
    node.replace_all_uses_with(masked)
    graph.erase_node(node)


def _reads_late(user: fx.Node) -> bool:
    """Does `user`, or a view it makes, read its operand in the backward pass?"""
    if user.op != "call_function":
        return False
    if user.meta["phase"] != "forward":
        return True
    views = (aten.reshape.default, aten.permute.default, aten.expand.default)
    return user.target in views and any(_reads_late(u) for u in user.users)
