"""The rules by operator; each module of rules adds its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from ...ir.graph import Builder

Rule = Callable[[Builder, fx.Node], Any]


RULES: dict[Any, Rule] = {}


def rule(*ops: Any) -> Callable[[Rule], Rule]:
    def register(f: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, f))
        return f

    return register
