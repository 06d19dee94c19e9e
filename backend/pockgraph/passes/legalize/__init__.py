"""Operators that a target lacks, written in terms of those it has: short functions in plain PyTorch.

Not here: what a target has as one kernel, and what it refuses: that the target says (`targets/`).

    glu(x, 1)    →    x[:, :4] * sigmoid(x[:, 4:])

A target passes what it refuses; everything else is left alone, so its own fused operators stay. Where an
operator stands for others, these are expanded in turn until all are the target's. What the functions of
`table` compute on constants alone is folded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.graph import Graph, Role, add_constant, bound_args, output_args, rebuilt
from ..optimize.fold_constants import FoldConstants
from . import (  # noqa: F401  the expansions register themselves on import
    activations,
    convolution,
    division,
    elementwise,
    indexing,
    layout,
    losses,
    normalization,
    ordering,
    padding,
    pooling,
    products,
    reductions,
    resampling,
    sampling,
)
from .table import Inexpansible, expansion_of
from .tracing import read_results, traced

CACHED = 512  # expansions a target keeps; a network has a few dozen


@dataclass(frozen=True)
class Expansion:
    """What one call stands for, or why that is of no use.

    Attributes:
        graph: its inputs stand in the order of the call's tensors, after them constants; None where
            the call cannot be expanded.
        reason: then, in words; empty where no expansion is known.
    """

    graph: Graph | None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Legalize:
    """See the module.

    Attributes:
        refusal: why the target cannot lower a call, or an empty string.
    """

    name: ClassVar[str] = "legalize"
    refusal: Callable[[fx.Node], str]
    _known: OrderedDict[Any, Expansion] = field(default_factory=OrderedDict, repr=False)

    def __call__(self, graph: Graph) -> Graph:
        """Calls that the target refuses are expanded; those that cannot be stay."""
        if not any(self.refusal(n) for n in graph.nodes()):
            return graph
        new = fx.Graph()
        new.output(new.graph_copy(graph.fx, {}))
        copy = _Inlining(rebuilt(graph, new))
        # Users first: a backward pass written in other terms may no longer read what the forward one made.
        for node in reversed(list(copy.graph.nodes())):
            if self.refusal(node):
                expansion = self.expansion(node)
                if expansion.graph is not None:
                    copy.expand(node, expansion.graph)
        return copy.finished()

    def why_not(self, node: fx.Node) -> str:
        """Why a call can be neither lowered nor expanded, or an empty string."""
        refused = self.refusal(node)
        if not refused:
            return ""
        expansion = self.expansion(node)
        if expansion.graph is not None:
            return ""
        return expansion.reason or refused

    def expansion(self, node: fx.Node, within: tuple[Any, ...] = ()) -> Expansion:
        """What a refused call stands for, in the target's own operators.

        Args:
            within: operators that are being expanded: one may stand for a simpler call of itself, once.
        """
        function = expansion_of(node)
        if function is None or within.count(node.target) > 1:
            return Expansion(None)
        key = (node.target, _frozen(bound_args(node)), read_results(node))
        if key not in self._known:
            self._known[key] = self._expanded(function, node, (*within, node.target))
            if len(self._known) > CACHED:
                self._known.popitem(last=False)
        return self._known[key]

    def _expanded(self, function: Callable[..., Any], node: fx.Node, within: tuple[Any, ...]) -> Expansion:
        try:
            graph = traced(function, node)
        except Inexpansible as e:
            return Expansion(None, str(e))
        copy = _Inlining(graph)
        for inner in reversed(list(graph.nodes())):
            refused = self.refusal(inner)
            if not refused:
                continue
            expansion = self.expansion(inner, within)
            if expansion.graph is None:
                reason = expansion.reason or refused
                return Expansion(None, f"it stands for {inner.target}, among others: {reason}")
            copy.expand(inner, expansion.graph)
        return Expansion(FoldConstants(weights=False)(copy.finished()))


class _Inlining:
    """A graph in which calls are replaced by what they stand for, in place."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._slots, self._values = list(graph.inputs), dict(graph.values)
        self._placeholders = [n for n in graph.fx.nodes if n.op == "placeholder"]
        self._constants: dict[Any, fx.Node] = {}

    def expand(self, node: fx.Node, expansion: Graph) -> None:
        twin: dict[fx.Node, fx.Node] = {}
        given = iter(_tensors(bound_args(node)))
        for slot, placeholder in zip(expansion.inputs, expansion.placeholders.values()):
            constant = slot.role is Role.CONST
            twin[placeholder] = self._constant(expansion.values[slot.name]) if constant else next(given)
        with self.graph.fx.inserting_before(node):
            for inner in expansion.nodes():
                twin[inner] = self.graph.fx.node_copy(inner, twin.__getitem__)
                twin[inner].meta = {**node.meta, "val": inner.meta["val"]}
        results = [twin[n] for n in output_args(expansion.fx)]
        if isinstance(node.meta["val"], torch.Tensor):
            node.replace_all_uses_with(results[0])
        else:  # only those results that are read are there
            read = read_results(node)
            for user in list(node.users):
                if user.users:
                    user.replace_all_uses_with(results[read.index(user.args[1])])
                self.graph.fx.erase_node(user)
        self.graph.fx.erase_node(node)

    def finished(self) -> Graph:
        self.graph.fx.eliminate_dead_code()
        return rebuilt(self.graph, self.graph.fx, inputs=tuple(self._slots), values=self._values)

    def _constant(self, value: torch.Tensor) -> fx.Node:
        content = (value.dtype, value.shape, value.numpy().tobytes())
        if content not in self._constants:
            node, slot = add_constant(self.graph.fx, self._placeholders[-1], "expanded", value)
            self._placeholders.append(node)
            self._slots.append(slot)
            self._values[slot.name] = value
            self._constants[content] = node
        return self._constants[content]


def _tensors(arguments: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(arguments, lambda n: found.append(n) or n)
    return found


def _frozen(argument: Any) -> Any:
    """Equal for arguments that give equal expansions; hashable."""
    if isinstance(argument, fx.Node):
        val = argument.meta["val"]
        return "tensor", val.dtype, tuple(val.shape)
    if isinstance(argument, list | tuple):
        return tuple(_frozen(a) for a in argument)
    return type(argument), argument
