"""The table of rules that a target lowers a graph with: one function per ATen overload.

A rule gets the arguments of the call in the order of the operator's schema, defaults filled in. What it
cannot take is refused by a `check`, before anything is lowered.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import fx

from ..ir.graph import Graph, aten, bound_args
from ..passes.legalize import Legalize
from . import Unsupported, unsupported_calls

_EXPERTS = (
    "its groups of rows have sizes that only the batch tells. For a mixture of experts of transformers, "
    "model.set_experts_implementation('batched_mm') computes the same with shapes that are fixed; elsewhere "
    "compute every expert for every row and weight the results, zero where an expert is not chosen"
)

_OBSERVER = (
    "it observes values and quantises them in one. Fix the ranges: instead of a fake-quantize module call "
    "torch.fake_quantize_per_tensor_affine(x, scale, zero_point, low, high) with the observer's numbers"
)
_NO_DECOMPOSITIONS = (
    "{target} decomposes no matrices and solves no systems; write small ones out in sums and products, or as "
    "a fixed number of steps of an iteration (for an inverse, x = 2 * x - x @ a @ x), or take the target "
    "'torch'"
)
_DECOMPOSITION = re.compile(r"aten\.(_?linalg_|_?cholesky|lu_|triangular_solve|ormqr|geqrf)")
# Part of an operator's name -> why no target has it, and what to do.
_REMEDIES = {"grouped_mm": _EXPERTS, "_fused_moving_avg_obs": _OBSERVER}

Check = Callable[..., str]
R = TypeVar("R", bound=Callable[..., Any])
C = TypeVar("C", bound=Check)


class Rules:
    """Rules by ATen overload, and what they demand.

    Attributes:
        rules, checks: overload -> function.
        moving: overloads whose rule computes nothing.
    """

    def __init__(self) -> None:
        self.rules: dict[Any, Callable[..., Any]] = {}
        self.checks: dict[Any, Check] = {}
        self.moving: set[Any] = set()

    def rule(self, *overloads: Any) -> Callable[[R], R]:
        """Register a function as the lowering of ATen overloads."""

        def register(function: R) -> R:
            for overload in overloads:
                assert overload not in self.rules, f"{overload} has two rules"
                self.rules[overload] = function
            return function

        return register

    def moves(self, *overloads: Any) -> Callable[[R], R]:
        """Like `rule`, for a function that computes nothing: it takes every dtype."""
        self.moving.update(overloads)
        return self.rule(*overloads)

    def check(self, *overloads: Any) -> Callable[[C], C]:
        """Register what the rules of `overloads` demand of their arguments.

        The function gets `(node, *args)`, tensors as fx nodes, and returns the reason why a call cannot
        be lowered, or an empty string.
        """

        def register(function: C) -> C:
            self.checks.update(dict.fromkeys(overloads, function))
            return function

        return register


class RuleTable(Rules):
    """The rules of one target.

    Attributes:
        target: what messages call it.
        dtypes: those that it has.
        legalize: the pass that writes a graph in operators of this table.
    """

    def __init__(self, target: str, dtypes: Container[torch.dtype]) -> None:
        super().__init__()
        self.target, self.dtypes = target, dtypes
        self.legalize = Legalize(self.refusal)

    def unsupported(self, graph: Graph) -> list[Unsupported]:
        """Every call in `graph` that can be neither lowered nor expanded into calls that can."""
        return unsupported_calls(graph, lambda node: self._in_any_form(node) or self.legalize.why_not(node))

    def refusal(self, node: fx.Node) -> str:
        """Why a call cannot be lowered, or an empty string."""
        if node.target is operator.getitem:
            return ""
        if reason := self._in_any_form(node):
            return reason
        if node.target not in self.rules:
            if _DECOMPOSITION.match(str(node.target)):
                return _NO_DECOMPOSITIONS.format(target=self.target)
            return f"no rule lowers this operator to {self.target}"
        return self.checks[node.target](node, *bound_args(node)) if node.target in self.checks else ""

    def _in_any_form(self, node: fx.Node) -> str:
        """Why neither a call nor what it stands for can be lowered, or an empty string."""
        if reason := in_no_target(node):
            return reason
        for dtype in (d for n in (node, *node.all_input_nodes) for d in dtypes_of(n)):
            if dtype.is_complex:
                return (
                    f"{self.target} has no complex numbers; compute with two real tensors, the real and the "
                    "imaginary part (a Fourier transform of fixed size is a product with two matrices of "
                    "cosines and sines), or take the target 'torch'"
                )
            if dtype not in self.dtypes:
                return (
                    f"{self.target} has no dtype {dtype}; leave out torch.autocast or the cast there, so "
                    "that it computes in float32, or take the target 'torch'"
                )
        return ""


def in_no_target(node: fx.Node) -> str:
    """Why no target has an operator, and what to do; an empty string where nothing is known."""
    return next((text for part, text in _REMEDIES.items() if part in str(node.target)), "")


def dtypes_of(node: fx.Node) -> list[torch.dtype]:
    """The dtypes of the tensors that a node makes."""
    val = node.meta["val"]
    values = val if isinstance(val, tuple) else (val,)
    return [v.dtype for v in values if isinstance(v, torch.Tensor)]


def steps_at_whole_numbers(node: fx.Node) -> bool:
    """Does anything read a value in such a way that its last bit decides between two integers?"""
    rounding = (
        aten.floor.default,
        aten.ceil.default,
        aten.round.default,
        aten.trunc.default,
        aten.frac.default,
    )
    return node.meta["val"].is_floating_point() and any(
        u.target in rounding or (u.target is aten._to_copy.default and not u.meta["val"].is_floating_point())
        for u in node.users
    )


@dataclass
class Context:
    """A graph half lowered.

    Attributes:
        rules: the target's, by ATen overload.
        values: fx node -> what it became.
    """

    graph: Graph
    rules: Mapping[Any, Callable[..., Any]]
    values: dict[fx.Node, Any] = field(default_factory=dict)

    def lower(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            return self.values[node.args[0]][node.args[1]]  # pyright: ignore
        assert node.target in self.rules, f"{node.target} has no rule: run the target's pipeline before"
        args = fx.map_arg(tuple(bound_args(node)), self.values.__getitem__)
        return self.rules[node.target](self, node, *args)
