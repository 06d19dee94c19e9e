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
from dataclasses import dataclass
from typing import Any

from torch import fx

from ...graph import Graph
from ..rule_table import RuleTable, bound_args
from . import emit

TABLE = RuleTable("OpenVINO", emit.OV_TYPES)
RULES, rule, check, find_unsupported = TABLE.rules, TABLE.rule, TABLE.check, TABLE.unsupported


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
        return RULES[node.target](self, node, *args)
