"""The table of rules, and the walk that turns a graph into an OpenVINO model.

A rule lowers one ATen overload. It gets the arguments of the call in the order of the operator's
schema, defaults filled in, tensors as `ov.Output`s:

    @rule(aten.neg.default)
    def neg(ctx, node, x):
        return op.negative(x).output(0)

State is held by `ReadValue`/`Assign` pairs without an initial value: nothing is stored in the file
for it, and whoever runs the model sets it (`query_state`) before the first step.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from openvino.op.util import Variable, VariableInfo
from torch import fx

from ...errors import PockError
from ...graph import Graph, Role, Slot
from .. import Unsupported
from . import emit
from .emit import Value, ov

Rule = Callable[..., Value | tuple[Value | None, ...]]
Check = Callable[..., str]

RULES: dict[Any, Rule] = {}
ELEMENTWISE: set[Any] = set()
CHECKS: dict[Any, Check] = {}


def rule(*overloads: Any) -> Callable[[Rule], Rule]:
    """Register a function as the lowering of ATen overloads."""

    def register(function: Rule) -> Rule:
        for overload in overloads:
            assert overload not in RULES, f"{overload} has two rules"
            RULES[overload] = function
        return function

    return register


def elementwise(*overloads: Any) -> Callable[[Rule], Rule]:
    """Like `rule`, for a function that does the same to every element, whatever the shape."""
    ELEMENTWISE.update(overloads)
    return rule(*overloads)


def check(*overloads: Any) -> Callable[[Check], Check]:
    """Register what the rules of `overloads` demand of their arguments.

    The function gets `(node, *args)`, tensors as fx nodes, and returns the reason why a call cannot
    be lowered, or an empty string.
    """

    def register(function: Check) -> Check:
        CHECKS.update(dict.fromkeys(overloads, function))
        return function

    return register


def bound_args(node: fx.Node) -> list[Any]:
    """The arguments of an operator call in the order of its schema, with its defaults."""
    bound = []
    for i, argument in enumerate(node.target._schema.arguments):  # pyright: ignore
        if i < len(node.args):
            bound.append(node.args[i])
        else:
            bound.append(node.kwargs.get(argument.name, argument.default_value))
    return bound


def find_unsupported(graph: Graph) -> list[Unsupported]:
    """Every call in `graph` that has no rule, or whose arguments its rule cannot take."""
    found = []
    for node in graph.nodes():
        reason = _refusal(node)
        if reason:
            meta = node.meta
            found.append(Unsupported(str(node.target), meta.get("layer", ""), meta.get("source", ""), reason))
    return found


def _refusal(node: fx.Node) -> str:
    if node.target is operator.getitem:
        return ""
    if node.target not in RULES:
        return "no rule lowers this operator to OpenVINO"
    values = node.meta["val"] if isinstance(node.meta["val"], tuple) else (node.meta["val"],)
    for value in values:
        if isinstance(value, torch.Tensor) and value.dtype not in emit.OV_TYPES:
            return f"OpenVINO has no dtype {value.dtype}"
    return CHECKS[node.target](node, *bound_args(node)) if node.target in CHECKS else ""


@dataclass
class Context:
    """A graph half lowered.

    Attributes:
        values: fx node -> what it became.
    """

    graph: Graph
    values: dict[fx.Node, Any]

    def lower(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            return self.values[node.args[0]][node.args[1]]  # pyright: ignore
        args = fx.map_arg(tuple(bound_args(node)), self.values.__getitem__)
        if node.meta["phase"] == "update" and node.target in ELEMENTWISE:
            return _flat(self, node, args)
        return RULES[node.target](self, node, *args)


def _flat(ctx: Context, node: fx.Node, args: tuple[Any, ...]) -> Value:
    """An elementwise operator on weights as vectors.

    OpenVINO's kernels vectorise over the innermost dimensions: on a weight [O, I, 1, 1] or
    [O, I, 3, 3] they take about ten times as long as on the same numbers in a row.
    """
    size = tuple(node.meta["val"].shape)
    tensors = [a for a in args if isinstance(a, Value)]
    if len(size) > 2 and all(emit.shape(t) in (size, ()) for t in tensors):
        args = tuple(emit.reshape(a, [-1]) if isinstance(a, Value) and emit.rank(a) else a for a in args)
    return emit.reshape(RULES[node.target](ctx, node, *args), size)  # pyright: ignore


def lower(graph: Graph) -> ov.Model:
    """`graph` as an OpenVINO model of static shapes.

    Batch entries and `lr` are parameters, named like their slots; constants are embedded and share
    the memory of `graph.values`, which must outlive the model; state slots are variables, named like
    their slots. The results are the outputs that are no new value of a state slot.
    """
    ctx = Context(graph, {})
    parameters: list[ov.op.Parameter] = []
    public = Names()
    reads: dict[tuple[Role, str, str], tuple[Any, Variable]] = {}
    for slot, node in zip(graph.inputs, graph.placeholders.values()):
        if slot.is_state:
            variable = _variable(slot)
            read = ov.op.read_value(variable)
            read.set_friendly_name(slot.name)
            reads[slot.role, slot.fqn, slot.key] = read, variable
            ctx.values[node] = read.output(0)
        elif slot.role in (Role.BATCH, Role.LR):
            parameters.append(_parameter(slot))
            ctx.values[node] = parameters[-1].output(0)
            public.add(ctx.values[node], slot.name)
        else:
            value = emit.tensor(graph.values[slot.name])
            value.get_node().set_friendly_name(slot.name)
            ctx.values[node] = value

    named = {v.get_node().get_name() for v in ctx.values.values()}
    for node in graph.nodes():
        ctx.values[node] = value = ctx.lower(node)
        _check_value(node, value)
        _name(node, value, named)
        _anchor(ctx, node)

    results, sinks = [], []
    for slot, node in zip(graph.outputs, graph.results.values()):
        value = ctx.values[node]
        state = reads.pop((_STATE_OF[slot.role], slot.fqn, slot.key), None) if slot.role in _STATE_OF else None
        if state is None:
            results.append(ov.op.Result(value))
            results[-1].set_friendly_name(slot.name)
            public.add(value, slot.name)
        else:
            sinks.append((node, ov.op.assign(_single_output(value), state[1])))
    # A variable that the graph only reads needs an Assign of itself: it is set from outside.
    own = [ov.op.assign(read, variable) for read, variable in reads.values()]
    # OpenVINO schedules depth-first from the last sink to the first. Those whose gradients come first
    # stand last: then each update is applied as soon as its gradient is there, and frees it.
    order = _gradient_order(graph)
    sinks.sort(key=lambda pair: order[pair[0]], reverse=True)
    public.set()
    return ov.Model(results, own + [sink for _, sink in sinks], parameters, "pockui")


def _gradient_order(graph: Graph) -> dict[fx.Node, int]:
    """Node -> where in the schedule the last thing outside the update phase stands that it waits for."""
    order: dict[fx.Node, int] = {}
    for i, node in enumerate(graph.fx.nodes):
        own = i if node.meta.get("phase") in ("forward", "backward") else 0
        order[node] = max([own, *(order[n] for n in node.all_input_nodes)])
    return order


def _anchor(ctx: Context, node: fx.Node) -> None:
    """Make OpenVINO compute a mask where the graph has it: in the forward pass.

    OpenVINO runs an operator when somebody needs its result. A mask that only the backward pass reads
    would be computed there, and keep the activation it is made from until then: four bytes an element
    instead of one. So whatever reads that activation from here on waits for the mask.
    """
    val = node.meta["val"]
    if node.meta["phase"] != "forward" or not isinstance(val, torch.Tensor) or val.dtype != torch.bool:
        return
    if not node.users or any(u.meta.get("phase") != "backward" for u in node.users):
        return
    source = node
    while source.op == "call_function" and source.meta["val"].dtype == torch.bool:
        source = source.all_input_nodes[0]
    value = ctx.values[source]
    if source.op == "call_function" and emit.shape(value) == emit.shape(ctx.values[node]):
        ctx.values[source] = emit.select(ctx.values[node], value, value)


_STATE_OF: Mapping[Role, Role] = {Role.NEW_PARAM: Role.PARAM, Role.NEW_OPT_STATE: Role.OPT_STATE}


def _variable(slot: Slot) -> Variable:
    info = VariableInfo()
    info.variable_id = slot.name
    info.data_type = emit.OV_TYPES[getattr(torch, slot.dtype)]
    info.data_shape = ov.PartialShape(list(slot.shape))
    return Variable(info)


def _parameter(slot: Slot) -> ov.op.Parameter:
    parameter = ov.op.Parameter(emit.OV_TYPES[getattr(torch, slot.dtype)], ov.PartialShape(list(slot.shape)))
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
    return node if node.get_output_size() == 1 else emit.op.convert_like(value, value)


def _check_value(node: fx.Node, value: Any) -> None:
    """A rule that gives another shape or dtype than ATen is wrong: say so here, not ten nodes later."""
    pairs = zip(node.meta["val"], value) if isinstance(value, tuple) else ((node.meta["val"], value),)
    for meta, output in pairs:
        if output is None or not isinstance(meta, torch.Tensor):
            continue
        got = emit.shape(output), emit.dtype(output)
        if got != (tuple(meta.shape), meta.dtype):
            raise PockError(
                f"The OpenVINO rule of {node.target} gave {got[0]} {got[1]} for {node.name}, which is "
                f"{tuple(meta.shape)} {meta.dtype} ({node.meta.get('layer', '')}). "
                "This is a bug of the rule: please report it with the shapes above."
            )


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
