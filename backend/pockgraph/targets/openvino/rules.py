"""The table of rules.

A rule lowers one ATen overload. It gets the arguments of the call in the order of the operator's
schema, defaults filled in, tensors as `ov.Output`s:

    @rule(aten.neg.default)
    def neg(ctx, node, x):
        return op.negative(x).output(0)

Arguments that a rule cannot take are refused by a `check`, before anything is lowered.
"""

from __future__ import annotations

from ..rule_table import Context, RuleTable
from . import emit

TABLE = RuleTable("OpenVINO", emit.OV_TYPES)
RULES, rule, check = TABLE.rules, TABLE.rule, TABLE.check

__all__ = ["RULES", "TABLE", "Context", "check", "rule"]
