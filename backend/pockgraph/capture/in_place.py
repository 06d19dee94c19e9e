"""Operators that write into their operands -> functions of values."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from typing import Any

from torch import fx

from ..ir.graph import aten


def undo_in_place(graph: fx.Graph) -> None:
    """`x.op_(...)` → `op(x, ...)` where nobody else looks at the memory of x.

    Formulas inside ATen work in place on what they have just made; this is all that most graphs need.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if not writes(node) or _is_shared(node.args[0]):
            continue
        functional = _functional(node.target)
        if functional is None:
            continue
        x = node.args[0]
        later = [user for user in x.users if order[user] > order[node]]
        node.args = _with_defaults(node, functional)
        node.target = functional
        for user in later:
            user.replace_input_with(x, node)


def _with_defaults(node: fx.Node, functional: Any) -> tuple[Any, ...]:
    """The arguments of `op_`, with those of its defaults that `op` does not have (`bernoulli_` has p=0.5)."""
    required = {a.name for a in functional._schema.arguments if not a.has_default_value()}
    known: Any = node.target
    left = known._schema.arguments[len(node.args) :]
    added = (a.default_value for a in left if a.name in required and a.name not in node.kwargs)
    return (*node.args, *added)


def plain_strides(graph: fx.Graph) -> None:
    """`as_strided` → `reshape` where all that it changes is how memory is described.

    Pools do this to keep their result channels-last; its gradient is an `as_strided_scatter`.
    """
    for node in list(graph.nodes):
        if node.target not in (aten.as_strided.default, aten.as_strided_scatter.default):
            continue
        x: Any = node.args[0]
        *others, size, stride = node.args[: 3 if node.target is aten.as_strided.default else 4]
        offset = dict(enumerate(node.args)).get(len(others) + 2, node.kwargs.get("storage_offset"))
        old = x.meta["val"]
        dense = [math.prod(size[d + 1 :]) for d in range(len(size))]
        same = all(s == 1 or a == b for s, a, b in zip(size, stride, dense))
        if not old.is_contiguous() or math.prod(size) != old.numel() or not same or offset:
            continue
        with graph.inserting_before(node):
            plain = graph.call_function(aten.reshape.default, (others[-1], list(node.meta["val"].shape)))
        plain.meta = dict(node.meta)
        node.replace_all_uses_with(plain)
        graph.erase_node(node)


def _functional(target: Any) -> Any:
    """The overload of `op` that takes what `op_` takes (it may have another name); None without one."""
    name = target.overloadpacket.__name__
    packet = getattr(aten, name.removesuffix("_"), None)
    if not name.endswith("_") or packet is None:
        return None
    wanted = [str(a.type) for a in target._schema.arguments]
    overloads = (getattr(packet, o) for o in sorted(packet.overloads(), key=target._overloadname.__ne__))
    return next((o for o in overloads if [str(a.type) for a in o._schema.arguments] == wanted), None)


def writes(node: fx.Node) -> bool:
    """Does the operator change an operand?"""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and schema.is_mutable


def written_inputs(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Placeholder or attribute whose memory some operator changes -> the first operator that does."""
    base: dict[fx.Node, fx.Node] = {}
    found: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            base[node] = node
        elif node.op == "call_function":
            if _is_view(node):
                whose = next((base[a] for a in node.all_input_nodes if a in base), None)
                if whose is not None:
                    base[node] = whose
            for operand in _changed_operands(node):
                if operand in base:
                    found.setdefault(base[operand], node)
    return found


def _changed_operands(node: fx.Node) -> Iterator[fx.Node]:
    if not writes(node):
        return
    target: Any = node.target
    for i, argument in enumerate(target._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.kwargs.get(argument.name, node.args[i] if i < len(node.args) else None)
            for x in value if isinstance(value, list | tuple) else (value,):
                if isinstance(x, fx.Node):
                    yield x


def _is_view(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    aliases = schema is not None and any(r.alias_info is not None for r in schema.returns)
    return aliases or node.target is operator.getitem


def _is_shared(x: fx.Node) -> bool:
    """Does x look at memory that others know of, or others at that of x?"""
    return x.op != "call_function" or _is_view(x) or any(_is_view(u) for u in x.users if not writes(u))
