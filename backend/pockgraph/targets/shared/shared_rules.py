"""The table of the rules that runtimes share.

Such a rule gets a target's helpers (`emit`: its `Emitter`, with what other modules of it add) in place of the
half lowered graph, and then what `rule_table` says; `emit.native` has the runtime's operators as functions
of values.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import fx

from ...errors import PockError
from ..rule_table import R, Rules, RuleTable

_SHARED = Rules()
rule, moves, check = _SHARED.rule, _SHARED.moves, _SHARED.check
_FOLDS: set[Any] = set()


def folds(function: R) -> R:
    """Mark a rule that takes nodes in front of its own in: after `emit` it gets what each became."""
    _FOLDS.add(function)
    return function


def joined(*helpers: object) -> Any:
    """What all helpers have under one name, the last one's where several have it."""
    return SimpleNamespace(**{n: getattr(h, n) for h in helpers for n in dir(h) if not n.startswith("_")})


def add_to(table: RuleTable, *helpers: object) -> None:
    """Give a target the rules that it has not written itself.

    Args:
        helpers: the target's emitter, and modules with the functions that rules call as `emit.name`, too.
    """
    emit = joined(*helpers)
    for overload, function in _SHARED.rules.items():
        if overload not in table.rules:
            register = table.moves if overload in _SHARED.moving else table.rule
            if function in _FOLDS:
                register(overload)(lambda ctx, node, *args, f=function: f(emit, ctx.values, node, *args))
            else:
                register(overload)(lambda ctx, node, *args, f=function: f(emit, node, *args))
            if overload in _SHARED.checks:
                table.check(overload)(_SHARED.checks[overload])


def check_value(emit: Any, target: str, node: fx.Node, value: Any) -> None:
    """A rule that gives another shape or dtype than ATen is wrong: say so here, not ten nodes later."""
    pairs = zip(node.meta["val"], value) if isinstance(value, tuple) else ((node.meta["val"], value),)
    for meta, output in pairs:
        if output is None or not isinstance(meta, torch.Tensor):
            continue
        size, dtype = emit.shape(output), emit.dtype(output)
        if (size, dtype) != (tuple(meta.shape), meta.dtype):
            raise PockError(
                f"The {target} rule of {node.target} gave {size} {dtype} for {node.name}, which is "
                f"{tuple(meta.shape)} {meta.dtype} ({node.meta.get('layer', '')}). "
                "This is a bug of the rule: please report it with the shapes above."
            )


def out_dtype(node: fx.Node) -> torch.dtype:
    val = node.meta["val"]
    return (val[0] if isinstance(val, tuple) else val).dtype


def out_shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)
