"""What depends on no input, computed once."""

from __future__ import annotations

import torch
from torch import fx

from ...ir.graph import Graph, add_constant, rebuilt, tensor_bytes

FOLD_LIMIT_BYTES = 1 << 20


def fold_constants(graph: Graph) -> Graph:
    """Evaluate nodes that depend on no input (or only on constants) into CONST inputs.

    Results over a megabyte stay computed: a constant is stored in every artefact.
    """
    placeholders = graph.placeholders
    known = {node: graph.values[name] for name, node in placeholders.items() if name.startswith("const:")}
    slots, values = list(graph.inputs), dict(graph.values)
    last = list(placeholders.values())[-1]
    for node in list(graph.fx.nodes):
        if node.op != "call_function" or any(a not in known for a in node.all_input_nodes):
            continue
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            continue
        args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
        known[node] = node.target(*args, **kwargs)
    for node, value in known.items():
        inside = all(user in known for user in node.users)
        if node.op != "call_function" or inside or not isinstance(value, torch.Tensor):
            continue
        if tensor_bytes(value.shape, value.dtype) > FOLD_LIMIT_BYTES or value.is_complex():
            continue  # no file of a graph holds complex numbers
        last, slot = add_constant(graph.fx, last, f"const_{node.name}", value)
        node.replace_all_uses_with(last)
        slots.append(slot)
        values[slot.name] = value.contiguous()
    graph.fx.eliminate_dead_code()
    return rebuilt(graph, graph.fx, inputs=tuple(slots), values=values)
