"""The table of rules.

A rule lowers one ATen overload. It gets the arguments of the call in the order of the operator's
schema, defaults filled in, tensors as `ov.Output`s:

    @rule(aten.neg.default)
    def neg(ctx, node, x):
        return op.negative(x).output(0)

Arguments that a rule cannot take are refused by a `check`, before anything is lowered.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import fx

from ...graph import Graph
from .. import Unsupported
from . import emit
from .emit import Value

Rule = Callable[..., Value | tuple[Value | None, ...]]
Check = Callable[..., str]
R = TypeVar("R", bound=Rule)
C = TypeVar("C", bound=Check)

RULES: dict[Any, Rule] = {}
ELEMENTWISE: set[Any] = set()
CHECKS: dict[Any, Check] = {}


def rule(*overloads: Any) -> Callable[[R], R]:
    """Register a function as the lowering of ATen overloads."""

    def register(function: R) -> R:
        for overload in overloads:
            assert overload not in RULES, f"{overload} has two rules"
            RULES[overload] = function
        return function

    return register


def elementwise(*overloads: Any) -> Callable[[R], R]:
    """Like `rule`, for a function that does the same to every element, whatever the shape."""
    ELEMENTWISE.update(overloads)
    return rule(*overloads)


def check(*overloads: Any) -> Callable[[C], C]:
    """Register what the rules of `overloads` demand of their arguments.

    The function gets `(node, *args)`, tensors as fx nodes, and returns the reason why a call cannot
    be lowered, or an empty string.
    """

    def register(function: C) -> C:
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
