"""The walk that turns a graph into an OpenVINO model.

Variables cannot be int64: such a state (a counter) is held as int32, and is int64 in between. State is
held by `ReadValue`/`Assign` pairs without an initial value: nothing is stored in the file
for it, and whoever runs the model sets it (`query_state`) before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from ...ir.graph import Graph, Role, Slot
from ...passes.int8_weights import Int8Rows
from ..shared.shared_rules import check_value
from .emitter import OV_TYPES, Value, emit, op, ov
from .int8_weights import emit_int8
from .openvino_rules import RULES, Context

Variable = ov.op.util.Variable


def lower(graph: Graph, int8_weights: Mapping[str, Int8Rows] | None = None) -> ov.Model:
    """`graph` as an OpenVINO model of static shapes.

    Batch entries, `lr` and `seed` are parameters, named like their slots; constants are embedded and share
    the memory of `graph.values`, which must outlive the model; state slots are variables, named like
    their slots. The results are the outputs that are no new value of a state slot.

    Args:
        int8_weights: slot name -> what stands for the value of a constant.
    """
    in_int8 = int8_weights or {}
    ctx = Context(graph, RULES)
    parameters: list[ov.op.Parameter] = []
    public = Names()
    reads: dict[str, tuple[Any, Variable]] = {}  # by the name of the output that is the next value
    for slot, node in zip(graph.inputs, graph.placeholders.values()):
        if slot.is_state:
            variable = _variable(slot)
            read = ov.op.read_value(variable)
            read.set_friendly_name(slot.name)
            reads[slot.next_name] = read, variable
            ctx.values[node] = emit.convert(read.output(0), getattr(torch, slot.dtype))
        elif slot.role in (Role.BATCH, Role.LR, Role.SEED):
            parameters.append(_parameter(slot))
            ctx.values[node] = parameters[-1].output(0)
            public.add(ctx.values[node], slot.name)
        else:
            stored = in_int8.get(slot.name)
            value = emit_int8(stored) if stored else emit.tensor(graph.values[slot.name])
            value.get_node().set_friendly_name(slot.name)
            ctx.values[node] = value

    named = {v.get_node().get_name() for v in ctx.values.values()}
    for node in graph.nodes():
        ctx.values[node] = value = ctx.lower(node)
        check_value(emit, "OpenVINO", node, value)
        anchored = _anchor(ctx, node)
        _name(node, value, named)
        if anchored is not None:
            _name(node, anchored, named)

    results, sinks = [], []
    for slot, node in zip(graph.outputs, graph.results.values()):
        value = ctx.values[node]
        state = reads.pop(slot.name, None)
        if state is None:
            results.append(ov.op.Result(value))
            results[-1].set_friendly_name(slot.name)
            public.add(value, slot.name)
        else:
            held = emit.convert(value, _held_dtype(slot))
            if not state[0].output(0).get_target_inputs():
                # The plugin compiles no variable that nobody reads.
                results.append(ov.op.Result(state[0].output(0)))
                public.add(state[0].output(0), f"before:{slot.name}")
            sinks.append((node, ov.op.assign(_single_output(held), state[1])))
    # A variable that the graph only reads needs an Assign of itself: it is set from outside.
    own = [ov.op.assign(read, variable) for read, variable in reads.values()]
    # OpenVINO schedules depth-first from the last sink to the first. Those whose gradients come first
    # stand last: then each update is applied as soon as its gradient is there, and frees it.
    order = _gradient_order(graph)
    sinks.sort(key=lambda pair: order[pair[0]], reverse=True)
    public.set()
    sinks = own + [sink for _, sink in sinks]
    return ov.Model(results, sinks, parameters, "pockui")  # pyright: ignore


def _gradient_order(graph: Graph) -> dict[fx.Node, int]:
    """Node -> where in the schedule the last thing outside the update phase stands that it waits for."""
    order: dict[fx.Node, int] = {}
    for i, node in enumerate(graph.fx.nodes):
        own = i if node.meta.get("phase") in ("forward", "backward") else 0
        order[node] = max([own, *(order[n] for n in node.all_input_nodes)])
    return order


def _anchor(ctx: Context, node: fx.Node) -> Value | None:
    """Make OpenVINO compute a mask where the graph has it: in the forward pass.

    OpenVINO runs an operator when somebody needs its result. A mask that only the backward pass reads
    would be computed there, and keep the activation it is made from until then: four bytes an element
    instead of one. So whatever reads that activation from here on waits for the mask.
    """
    val = node.meta["val"]
    if node.meta["phase"] != "forward" or not isinstance(val, torch.Tensor) or val.dtype != torch.bool:
        return None
    if not node.users or any(u.meta.get("phase") != "backward" for u in node.users):
        return None
    source = node
    while source.op == "call_function" and source.meta["val"].dtype == torch.bool:
        source = source.all_input_nodes[0]
    value = ctx.values[source]
    if source.op != "call_function" or emit.shape(value) != emit.shape(ctx.values[node]):
        return None
    ctx.values[source] = emit.select(ctx.values[node], value, value)
    return ctx.values[source]


def _held_dtype(slot: Slot) -> torch.dtype:
    return torch.int32 if slot.dtype == "int64" else getattr(torch, slot.dtype)


def _variable(slot: Slot) -> Variable:
    info = ov.op.util.VariableInfo()
    info.variable_id = slot.name
    info.data_type = OV_TYPES[_held_dtype(slot)]
    info.data_shape = ov.PartialShape(list(slot.shape))
    return Variable(info)


def _parameter(slot: Slot) -> ov.op.Parameter:
    parameter = ov.op.Parameter(OV_TYPES[getattr(torch, slot.dtype)], ov.PartialShape(list(slot.shape)))
    parameter.set_friendly_name(slot.name)
    return parameter


class Names:
    """The names under which a runtime finds inputs and results.

    A result shares the tensor of what it returns, and names given to one are taken from the other.
    So the names of each tensor are collected, and set at once.
    """

    def __init__(self) -> None:
        self._of: dict[tuple[str, int], tuple[Value, set[str]]] = {}

    def add(self, value: Value, name: str) -> None:
        key = value.get_node().get_name(), value.get_index()
        self._of.setdefault(key, (value, set()))[1].add(name)

    def set(self) -> None:
        for value, names in self._of.values():
            value.get_tensor().set_names(names)


def _single_output(value: Value) -> ov.Node:
    node = value.get_node()
    return node if node.get_output_size() == 1 else op.convert_like(value, value)


def _name(node: fx.Node, value: Any, named: set[str]) -> None:
    """Name what a rule made `phase/layer/node`, so that profiles can be read; helpers get a suffix."""
    name = "/".join((node.meta.get("phase", ""), node.meta.get("layer", ""), node.name))
    outputs = value if isinstance(value, tuple) else (value,)
    stack = [v.get_node() for v in outputs if v is not None]
    for made in stack:
        if made.get_name() not in named:
            made.set_friendly_name(name)
    while stack:
        made = stack.pop()
        if made.get_name() in named:
            continue
        named.add(made.get_name())
        if made.get_friendly_name() != name:
            made.set_friendly_name(f"{name}/{made.get_type_name()}_{len(named)}")
        stack.extend(source.get_node() for source in made.input_values())
