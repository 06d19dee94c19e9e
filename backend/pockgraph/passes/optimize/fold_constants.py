"""Compute at compile time what depends on constants only.

    mask = arange(64) <= reshape(arange(64), …)    →   const:mask       at capture
    inv = rsqrt(param:bn.running_var + eps)        →   const:inv        after pruning
    scale = param:bn.weight * inv                  →   const:scale

A constant is stored in every artefact. At capture nothing is known to be frozen: what is folded is made by
the code alone, of sizes and a few numbers, and stored up to `FOLD_LIMIT_BYTES`. After pruning frozen weights
are constants, too, and a value must not be larger than what it is made from: an expanded or gathered table,
or the sum of the two vectors that a dropout mask is made from, would only make the artefact larger. A view
alone is not worth a copy of the weight. Values of a page are too small to count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.graph import Graph, Role, add_constant, aten, rebuilt, value_bytes
from ...ir.operator_kinds import is_view

CONSTANT = (Role.PARAM, Role.BUFFER, Role.CONST)
# Masks and position tables of usual sequences and images are smaller; others are computed at every step.
FOLD_LIMIT_BYTES = 1 << 20
PAGE_BYTES = 4096


@dataclass(frozen=True)
class FoldConstants:
    """See the module.

    Attributes:
        weights: after pruning: frozen weights are constants, and no value may be larger than its sources.
    """

    name: ClassVar[str] = "fold_constants"
    weights: bool = True

    def __call__(self, graph: Graph) -> Graph:
        new = fx.Graph()
        new.output(new.graph_copy(graph.fx, {}))
        slots, values = list(graph.inputs), dict(graph.values)
        placeholders = [n for n in new.nodes if n.op == "placeholder"]
        if not placeholders:  # as what stands for an operator without operands: it is folded where it is used
            return graph
        roles = CONSTANT if self.weights else (Role.CONST,)
        known: dict[fx.Node, Any] = {
            n: values[s.name] for s, n in zip(slots, placeholders) if s.role in roles and not s.is_state
        }
        for node in list(new.nodes):
            if self._is_constant(node, known):
                args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
                with torch.no_grad():
                    value = node.target(*args, **kwargs)  # pyright: ignore
                # Zeros without memory, as autograd makes them, are no file's.
                known[node] = value.clone() if node.target is aten._efficientzerotensor.default else value
        last, prefix = placeholders[-1], "folded" if self.weights else "const"
        read: set[fx.Node] = set()
        for node in reversed(known):
            # Before pruning what only constants read stays with them, stored or not.
            computed = [u for u in node.users if u not in known or (self.weights and not self._is_stored(u))]
            if any(u not in known or u in read for u in computed):
                read.add(node)
        same: dict[object, fx.Node] = {}  # forward and backward fold the same scale: one constant
        for node, value in known.items():
            if node not in read or not self._is_stored(node):
                continue
            # Before pruning each stays: `artifact.identity` numbers them.
            content = (value.dtype, value.shape, value.numpy(force=True).tobytes()) if self.weights else node
            if content not in same:
                last, slot = add_constant(new, last, f"{prefix}_{node.name}", value)
                same[content] = last
                slots.append(slot)
                values[slot.name] = value.contiguous()
            node.replace_all_uses_with(same[content])
        new.eliminate_dead_code()
        return rebuilt(graph, new, inputs=tuple(slots), values=values)

    def _is_constant(self, node: fx.Node, known: dict[fx.Node, Any]) -> bool:
        if node.op != "call_function" or not all(a in known for a in node.all_input_nodes):
            return False
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            return False
        made_from = sum(value_bytes(a.meta["val"]) for a in node.all_input_nodes)
        return not self.weights or value_bytes(node.meta["val"]) <= max(made_from, PAGE_BYTES)

    def _is_stored(self, node: fx.Node) -> bool:
        """Whether a constant value is worth its bytes."""
        value = node.meta["val"]
        # No file of a graph holds complex numbers.
        if node.op == "placeholder" or not isinstance(value, torch.Tensor) or value.is_complex():
            return False
        if self.weights:
            return not is_view(node) or value_bytes(value) <= PAGE_BYTES
        return value_bytes(value) <= FOLD_LIMIT_BYTES
