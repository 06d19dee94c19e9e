"""Compute at compile time what depends on constants only.

    inv = rsqrt(param:bn.running_var + eps)        →   const:inv
    scale = param:bn.weight * inv                  →   const:scale

Frozen weights are constants, so what is folded depends on the plan. A value that is larger than all
it was made from stays computed (an expanded or gathered table would only grow the artefact), and a
view alone is not worth a copy of the weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ...ir.graph import Graph, Role, add_constant, rebuilt, value_bytes
from ...ir.operator_sets import VIEWS

CONSTANT = (Role.PARAM, Role.BUFFER, Role.CONST)


@dataclass(frozen=True)
class FoldConstants:
    name: ClassVar[str] = "fold_constants"

    def __call__(self, graph: Graph) -> Graph:
        new = fx.Graph()
        copied: dict[fx.Node, fx.Node] = {}
        new.output(new.graph_copy(graph.fx, copied))
        slots, values = list(graph.inputs), dict(graph.values)
        known: dict[fx.Node, torch.Tensor] = {}
        placeholders = [n for n in new.nodes if n.op == "placeholder"]
        for slot, node in zip(slots, placeholders):
            if slot.role in CONSTANT and not slot.is_state:
                known[node] = values[slot.name]
        source_bytes = {n: value_bytes(n.meta["val"]) for n in known}
        for node in list(new.nodes):
            if node.op != "call_function" or not all(a in known for a in node.all_input_nodes):
                continue
            bytes_in = sum(source_bytes[a] for a in node.all_input_nodes)
            value = node.meta["val"]
            # No file of a graph holds complex numbers.
            if not isinstance(value, torch.Tensor) or value.is_complex():
                continue
            bytes_out = value_bytes(value)
            if bytes_out > max(bytes_in, 4096):
                continue
            args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
            with torch.no_grad():
                known[node] = node.target(*args, **kwargs)
            source_bytes[node] = bytes_out
        last = placeholders[-1]
        same: dict[object, fx.Node] = {}  # forward and backward fold the same scale: one constant
        for node, value in known.items():
            if node.op == "placeholder" or (node.target in VIEWS and source_bytes[node] > 4096):
                continue
            if all(u in known and u.target not in VIEWS for u in node.users):
                continue
            content = (value.dtype, value.shape, value.numpy(force=True).tobytes())
            if content not in same:
                last, slot = add_constant(new, last, f"folded_{node.name}", value)
                same[content] = last
                slots.append(slot)
                values[slot.name] = value.contiguous()
            node.replace_all_uses_with(same[content])
        new.eliminate_dead_code()
        return rebuilt(graph, new, inputs=tuple(slots), values=values)
