"""A graph as a `torch.export.ExportedProgram` of core ATen: what converters of other runtimes start from.

Public functions of torch only. State is passed in and comes out, as in a `Graph`: a program has no memory
of its own, and whoever runs it hands `new_param:conv.weight` on as the next step's `trained:conv.weight`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from ..ir.graph import Graph, Role, Slot, add_placeholder, aten, output_args
from ..passes import run
from ..passes.legalize import Legalize
from . import refuse_unsupported, unsupported_calls


def outside_core(node: fx.Node) -> str:
    """Why core ATen lacks a call, or an empty string."""
    target: Any = node.target
    # `torch.export` writes reshape as the core's view.
    if target in (operator.getitem, aten.reshape.default) or torch.Tag.core in target.tags:
        return ""
    return f"{target} is not one of core ATen's operators"


def arguments(graph: Graph) -> tuple[Slot, ...]:
    """What a program of `graph` takes: state, batch, learning rate and seeds, in the graph's order."""
    return tuple(s for s in graph.inputs if s.is_state or s.role in (Role.BATCH, Role.LR, Role.SEED))


def exported_program(graph: Graph, refusal: Callable[[fx.Node], str] = outside_core) -> ExportedProgram:
    """`graph` in core ATen, as PyTorch's export format.

    It takes `arguments(graph)`, each a tensor of the slot's shape and dtype, and returns a tuple in the order
    of `graph.outputs`. All other inputs are its buffers, copies of `graph.values`.

    Args:
        refusal: why a runtime lacks a call, or an empty string; what it lacks is written in terms of other
            operators.

    Raises:
        UnsupportedOperators: listing the calls that stand for no others.
    """
    legalize = Legalize(refusal)
    refuse_unsupported(
        unsupported_calls(graph, legalize.why_not),
        "An exported program cannot hold",
        "or rewrite those lines of the model",
    )
    graph = run(graph, (legalize,))
    taken = arguments(graph)
    module, code = torch.nn.Module(), fx.Graph()
    twin: dict[fx.Node, fx.Node] = {}
    placed = dict(zip(graph.inputs, graph.placeholders.values()))
    for slot in taken:
        twin[placed[slot]] = add_placeholder(code, slot.name)
    for slot in graph.inputs:
        if slot not in taken:
            name = re.sub(r"\W", "_", slot.name)
            while hasattr(module, name):
                name += "_"
            module.register_buffer(name, graph.values[slot.name].detach().clone())
            twin[placed[slot]] = code.get_attr(name)
    for node in graph.nodes():
        twin[node] = code.node_copy(node, twin.__getitem__)
    code.output(tuple(twin[n] for n in output_args(graph.fx)))
    example = tuple(torch.zeros(s.shape, dtype=getattr(torch, s.dtype)) for s in taken)
    with torch.no_grad():
        return torch.export.export(fx.GraphModule(module, code), example, strict=False)
