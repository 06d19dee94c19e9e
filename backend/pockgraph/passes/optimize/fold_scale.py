"""Fold the frozen scale of a batch norm into a frozen convolution, forward and backward.

    y = conv(x, W) * s + b             →   y = conv(x, W', b)           W' = W * s
    dx = conv_transposed(dy * s, W)    →   dx = conv_transposed(dy, W')

Only where `W` and `s` are constants. A trained convolution keeps its scale explicit, so that its
gradient equals the one of PyTorch's evaluation-mode batch norm. `b` may be trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.graph import Builder, Graph, add_constant, aten, rebuilt
from .fold_constants import CONSTANT


@dataclass(frozen=True)
class FoldScale:
    name: ClassVar[str] = "fold_scale"

    def __call__(self, graph: Graph) -> Graph:
        editor = _Folder(graph)
        for node in list(editor.fx.nodes):
            if node.target is aten.mul.Tensor:
                editor.fold_forward(node)
            elif node.target is aten.convolution.default and node.args[6]:
                editor.fold_backward(node)
        editor.fx.eliminate_dead_code()
        return rebuilt(graph, editor.fx, inputs=tuple(editor.slots), values=editor.values)


class _Folder:
    def __init__(self, graph: Graph) -> None:
        self.fx = fx.Graph()
        self.fx.output(self.fx.graph_copy(graph.fx, {}))
        self.slots, self.values = list(graph.inputs), dict(graph.values)
        self._placeholders = [n for n in self.fx.nodes if n.op == "placeholder"]
        self._constant = {n: self.values[s.name] for n, s in zip(self._placeholders, self.slots)
                          if s.role in CONSTANT and not s.is_state}  # fmt: skip
        self._scaled: dict[tuple[fx.Node, fx.Node], fx.Node] = {}

    def _scale(self, node: Any) -> fx.Node | None:
        """The constant [C] or [1, C, 1, …] after a per-channel factor, or None."""
        inner = node.args[0] if node.op == "call_function" and node.target is aten.reshape.default else node
        if inner not in self._constant:
            return None
        shape = tuple(node.meta["val"].shape)
        per_channel = len(shape) > 2 and all(s == 1 for i, s in enumerate(shape) if i != 1)
        return inner if per_channel else None

    def _scaled_weight(self, weight: fx.Node, scale: fx.Node) -> fx.Node:
        """A constant input holding `weight [O, I, …] * scale [O]`."""
        if (weight, scale) not in self._scaled:
            value = self._constant[weight]
            value = value * self._constant[scale].reshape(-1, *[1] * (value.ndim - 1))
            self._scaled[weight, scale] = self._add_constant(f"scaled_{weight.name}", value)
        return self._scaled[weight, scale]

    def _add_constant(self, name: str, value: torch.Tensor) -> fx.Node:
        node, slot = add_constant(self.fx, self._placeholders[-1], name, value)
        self._placeholders.append(node)
        self.slots.append(slot)
        self.values[slot.name] = value
        self._constant[node] = value
        return node

    def fold_forward(self, mul: fx.Node) -> None:
        conv, factor = mul.args
        if not (isinstance(conv, fx.Node) and isinstance(factor, fx.Node)):
            return
        if conv.target is not aten.convolution.default or len(conv.users) > 1 or conv.args[6] or conv.args[2]:
            return
        weight: Any = conv.args[1]
        scale = self._scale(factor)
        if weight not in self._constant or scale is None:
            return
        folded = self._scaled_weight(weight, scale)
        add = next(iter(mul.users)) if len(mul.users) == 1 else None
        shift = self._shift(add, mul) if add is not None else None
        target = add if add is not None and shift is not None else mul
        b = Builder(self.fx, conv.meta["phase"], conv.meta["layer"], conv.meta["source"])
        with b.before(target):
            new = b.call(aten.convolution.default, conv.args[0], folded, shift, *conv.args[3:])
        target.replace_all_uses_with(new)
        for node in dict.fromkeys((target, mul, conv)):
            if not node.users:
                self.fx.erase_node(node)

    def _shift(self, add: fx.Node, mul: fx.Node) -> fx.Node | None:
        """The [C] vector after `mul + vector.reshape(1, C, 1, …)`, constant or not."""
        if add.target is not aten.add.Tensor or add.args[0] is not mul or add.kwargs:
            return None
        view: Any = add.args[1]
        if not isinstance(view, fx.Node) or view.meta["val"].ndim != mul.meta["val"].ndim:
            return None
        per_channel = [s if d == 1 else 1 for d, s in enumerate(mul.meta["val"].shape)]
        if list(view.meta["val"].shape) != per_channel:
            return None
        if view in self._constant:
            return self._add_constant(f"shift_{view.name}", self._constant[view].reshape(-1))
        vector = view.args[0] if view.target is aten.reshape.default else None
        return vector if isinstance(vector, fx.Node) and vector.meta["val"].ndim == 1 else None

    def fold_backward(self, conv: fx.Node) -> None:
        mul, weight = conv.args[:2]
        if not isinstance(mul, fx.Node) or mul.target is not aten.mul.Tensor or weight not in self._constant:
            return
        dy, factor = mul.args
        scale = self._scale(factor) if isinstance(factor, fx.Node) else None
        whole = isinstance(dy, fx.Node) and dy.meta["val"].shape == mul.meta["val"].shape
        if scale is None or not whole or len(mul.users) > 1:  # a scale may widen one channel into several
            return
        conv.args = (dy, self._scaled_weight(weight, scale), *conv.args[2:])  # pyright: ignore
