"""One boolean an element kept for the backward pass, where a clamped activation is kept for nothing else.

    y = relu(x)                          →    y = relu(x);  below = y <= 0
    dx = threshold_backward(dy, y, 0)    →    dx = masked_fill(dy, below, 0)

The clamp mask, one byte an element, is computed in the forward pass and `y` is freed there. A y that is saved
anyway costs nothing more to compare. A profile says the same of all plans at once (`compared` and `kept_for`
of `profile/operator_cost.py`), by the functions below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from ...cost.clamp_masks import CLAMP_MASK_STEPS
from ...ir.graph import Builder, Graph, aten, rebuilt
from ...ir.reachability import readers_after_forward

# The backward of a clamp -> how many bounds it compares.
BOUNDS: dict[Any, int] = {aten.hardtanh_backward.default: 2, aten.threshold_backward.default: 1}


def compared(node: fx.Node) -> fx.Node | None:
    """The activation that the backward of a clamp only compares with its bounds; of other nodes None."""
    y: Any = node.args[1] if node.target in BOUNDS else None
    return y if y is not None and y.op == "call_function" and y.meta["phase"] == "forward" else None


def kept_for(y: fx.Node) -> set[fx.Node]:
    """The nodes for which a compared activation is kept itself: while there is one, no mask is."""
    return {n for n in readers_after_forward(y) if compared(n) is not y}


@dataclass(frozen=True)
class KeepClampMasks:
    """Of `hardtanh_backward(dy, y)` and `threshold_backward(dy, y)`."""

    name: ClassVar[str] = "keep_clamp_masks"

    def __call__(self, graph: Graph) -> Graph:
        new = fx.Graph()
        new.output(new.graph_copy(graph.fx, {}))
        for node in list(new.nodes):
            y = compared(node)
            if y is not None and not kept_for(y):
                _keep_mask(new, node, y)
        new.eliminate_dead_code()
        return rebuilt(graph, new)


def _keep_mask(graph: fx.Graph, node: fx.Node, y: fx.Node) -> None:
    forward = Builder(graph, "forward", y.meta["layer"], y.meta["source"])
    bounds = node.args[2:]
    made: list[fx.Node] = []
    for step in CLAMP_MASK_STEPS[len(bounds)]:
        operands = [made[i] for i in step.reads] if step.bound is None else [y, bounds[step.bound]]
        packet, overload = step.op.split(".")
        with forward.after(made[-1] if made else y):
            made.append(forward.call(getattr(getattr(aten, packet), overload), *operands))
    backward = Builder(graph, "backward", node.meta["layer"], node.meta["source"])
    with backward.before(node):
        masked = backward.call(aten.masked_fill.Scalar, node.args[0], made[-1], 0.0)
    if "gradient_of" in node.meta:
        masked.meta["gradient_of"] = node.meta["gradient_of"]
    node.replace_all_uses_with(masked)
    graph.erase_node(node)
