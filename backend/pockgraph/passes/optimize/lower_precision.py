"""Matrix products and convolutions in a lower precision, everything else in float32.

    y  = mm(x, w)                    →   y  = float32(mm(bf16(x), bf16(w)))
    dw = mm(x.T, dy)                 →   dw = float32(mm(bf16(x.T), bf16(dy)))

It is what `torch.autocast` does to the operators that profit, on a graph that already holds its backward
and update: trained weights, optimizer state, the update, normalisations and the loss stay float32. A
value is cast once for all who read it, so that what the backward saves is the cast one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.graph import Builder, Graph, aten, meta_like, rebuilt

_LOWERED = (
    aten.mm.default,
    aten.bmm.default,
    aten.addmm.default,
    aten.baddbmm.default,
    aten.convolution.default,
    aten.convolution_backward.default,
)


@dataclass(frozen=True)
class LowerPrecision:
    """To `dtype`, in the forward and backward phase."""

    dtype: torch.dtype
    name: ClassVar[str] = "lower_precision"

    def __call__(self, graph: Graph) -> Graph:
        new = fx.Graph()
        new.output(new.graph_copy(graph.fx, {}))
        lowered: dict[fx.Node, fx.Node] = {}
        for node in list(new.nodes):
            if node.target not in _LOWERED or node.meta["phase"] == "update":
                continue
            node.args = fx.map_arg(node.args, lambda n: self._cast(new, n, lowered))
            outputs = node.meta["val"]
            node.meta["val"] = meta_like(_to(outputs, self.dtype))
            for result in [node] if isinstance(outputs, torch.Tensor) else list(node.users):
                result.meta["val"] = _to(result.meta["val"], self.dtype)
                self._restore(new, result, lowered)
        return rebuilt(graph, new)

    def _cast(self, graph: fx.Graph, node: fx.Node, lowered: dict[fx.Node, fx.Node]) -> fx.Node:
        """`node` in the lower precision, made once, as soon as it is there."""
        if node.meta["val"].dtype != torch.float32:
            return node
        if node not in lowered:
            # A placeholder has no phase: the first to read it is in the forward pass.
            builder = _builder(graph, node, node.meta.get("phase", "forward"))
            with builder.after(node):
                lowered[node] = builder.call(aten._to_copy.default, node, dtype=self.dtype)
        return lowered[node]

    def _restore(self, graph: fx.Graph, node: fx.Node, lowered: dict[fx.Node, fx.Node]) -> None:
        """Let all who read `node` read a float32 copy, but for those who would cast it back."""
        if not isinstance(node.meta["val"], torch.Tensor) or node.meta["val"].dtype != self.dtype:
            return
        users = list(node.users)
        builder = _builder(graph, node, node.meta["phase"])
        with builder.after(node):
            copy = builder.call(aten._to_copy.default, node, dtype=torch.float32)
        for user in users:
            user.replace_input_with(node, copy)
        lowered[copy] = node


def _builder(graph: fx.Graph, node: fx.Node, phase: str) -> Builder:
    return Builder(graph, phase, node.meta.get("layer", ""), node.meta.get("source", ""))


def _to(value: Any, dtype: torch.dtype) -> Any:
    """A meta tensor, or each of several, as `dtype` where it is float32."""
    if isinstance(value, tuple):
        return tuple(_to(v, dtype) for v in value)
    if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
        return value.to(dtype)
    return value
