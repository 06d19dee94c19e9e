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

from torch import fx

from ...graph import Graph
from ..rule_table import RuleTable, bound_args
from . import emit
from .emit import Value

Rule = Callable[..., Value | tuple[Value | None, ...]]
R = TypeVar("R", bound=Rule)

TABLE = RuleTable("OpenVINO", emit.OV_TYPES)
RULES, rule, check, find_unsupported = TABLE.rules, TABLE.rule, TABLE.check, TABLE.unsupported
ELEMENTWISE: set[Any] = set()


def elementwise(*overloads: Any) -> Callable[[R], R]:
    """Like `rule`, for a function that does the same to every element, whatever the shape."""
    ELEMENTWISE.update(overloads)
    return rule(*overloads)


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
