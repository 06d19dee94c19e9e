"""The walk that turns a graph into an ONNX model.

State goes in and out: `trained:conv.weight` is an input, `new_param:conv.weight` an output, and whoever
runs the model hands the one on as the other. Everything frozen is an initializer.
"""

from __future__ import annotations

from typing import Any

import onnx
import torch
from torch import fx

from ...ir.graph import Graph, Role
from ..shared.shared_rules import check_value
from .emitter import emit
from .model import build_model
from .onnx_rules import RULES, Context
from .value import Node, Value, parameter


def lower(graph: Graph) -> onnx.ModelProto:
    """`graph` as an ONNX model of static shapes; inputs and outputs are named like its slots.

    Inputs are the batch entries, `lr` and the state slots, in the graph's order; outputs are all of the
    graph's. Constants are copies of `graph.values`.
    """
    inputs, results = lower_to_values(graph)
    return build_model(inputs, results)


def lower_to_values(graph: Graph) -> tuple[list[Value], dict[str, Value]]:
    """The model's inputs, and its results by name."""
    ctx = Context(graph, RULES)
    inputs: list[Value] = []
    for slot, node in zip(graph.inputs, graph.placeholders.values()):
        if slot.is_state or slot.role in (Role.BATCH, Role.LR, Role.SEED):
            inputs.append(parameter(slot.name, slot.shape, getattr(torch, slot.dtype)))
            ctx.values[node] = inputs[-1]
        else:
            ctx.values[node] = emit.tensor(graph.values[slot.name], slot.name)
    named = {value.node for value in ctx.values.values()}
    for node in graph.nodes():
        ctx.values[node] = value = ctx.lower(node)
        check_value(emit, "ONNX", node, value)
        _name(node, value, named)
    return inputs, {name: ctx.values[node] for name, node in graph.results.items()}


def _name(node: fx.Node, value: Any, named: set[Node]) -> None:
    """Name what a rule made `phase/layer/node`, so that profiles can be read; helpers get a suffix."""
    name = "/".join((node.meta.get("phase", ""), node.meta.get("layer", ""), node.name))
    outputs = value if isinstance(value, tuple) else (value,)
    stack = [v.node for v in outputs if v is not None]
    last = {made for made in stack if made.kind}
    while stack:
        made = stack.pop()
        if made in named:
            continue
        named.add(made)
        if made.kind:
            whole = len(last) == 1 and made in last
            made.name = name if whole else f"{name}/{made.kind}_{len(named)}"
        stack.extend(i.node for i in made.operands)
