"""Compute only some channels of a gradient: push the choice up to the saved activation.

`index_select(dW, 1, channels)` alone would compute all of dW and throw most of it away. Operator by
operator the selection moves to the operands, until it rests on what the forward pass saved:

    dy ─┐                                   dy ─┐
        mm ── dW ── index_select     →          mm ── dW[:, channels]
    x ──┘                          x ─ select ──┘

Then the whole activation is freed in the forward pass and only the selected channels are kept.
Where an operator has no rule the selection stays: still exact, with no saving above that point.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from ..ir.graph import Builder, aten
from ..recurrent.operators import ops


@dataclass(frozen=True)
class InGroups:
    """Of C channels in `groups` groups of C/G, the same ones of every group: along `dim`."""

    dim: int
    groups: int


# What one rule answers: for each argument position, along which dimension that operand is to be
# selected; and the arguments that change otherwise. None: the selection cannot move past this node.
Along = int | InGroups
Moves = tuple[dict[int, Along], dict[int, Any]]
Rule = Callable[[fx.Node, int, int], Moves | None]
RULES: dict[Any, Rule] = {}


def rule(*ops: Any) -> Callable[[Rule], Rule]:
    def register(f: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, f))
        return f

    return register


def moves(node: fx.Node, dim: Along, count: int) -> Moves | None:
    """How a selection of `count` channels along `dim` of `node` moves to its operands, or None."""
    if node.op != "call_function" or node.meta["phase"] == "forward" or isinstance(dim, InGroups):
        return None
    target = node.target
    if target is operator.getitem:
        inner = node.args[0]
        assert isinstance(inner, fx.Node)
        if inner.target is aten.convolution_backward.default:
            return _convolution_backward(inner, dim, count)
        if inner.target is aten.native_layer_norm_backward.default and node.args[1] == 1:
            return _layer_norm_backward(inner, count)
        return None
    found = RULES.get(target)
    return found(node, dim, count) if found else None


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


@rule(aten.permute.default)
def _permute(node: fx.Node, dim: int, count: int) -> Moves | None:
    return {0: node.args[1][dim]}, {}  # pyright: ignore


@rule(aten.mm.default)
def _mm(node: fx.Node, dim: int, count: int) -> Moves | None:
    return {dim: dim}, {}


@rule(aten.bmm.default)
def _bmm(node: fx.Node, dim: int, count: int) -> Moves | None:
    return ({0: 0, 1: 0} if dim == 0 else {dim - 1: dim}), {}


@rule(aten.reshape.default)
def _reshape(node: fx.Node, dim: int, count: int) -> Moves | None:
    before, after = _shape(node.args[0]), _shape(node)
    lead = _product(after[:dim])
    for d in range(len(before)):
        if _product(before[:d]) == lead and before[d] == after[dim]:
            return {0: d}, {1: [*after[:dim], count, *after[dim + 1 :]]}
    return None


@rule(ops.before.default)
def _before(node: fx.Node, dim: int, count: int) -> Moves | None:
    return ({0: dim, 1: dim - 1}, {}) if dim else None


@rule(aten.sum.dim_IntList)
def _sum(node: fx.Node, dim: int, count: int) -> Moves | None:
    ndim = len(_shape(node.args[0]))
    reduced = {d % ndim for d in node.args[1]}  # pyright: ignore
    if len(_shape(node)) == 1 and node.args[0].target is not aten.mul.Tensor:  # pyright: ignore
        return None  # a bias holds on to no activation: there is nothing to save above
    keepdim = len(node.args) > 2 and node.args[2]
    if keepdim:
        return None if dim in reduced else ({0: dim}, {})
    return {0: [d for d in range(ndim) if d not in reduced][dim]}, {}


@rule(
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.mul.Scalar,
    aten.div.Scalar,
    aten.add.Scalar,
    aten.neg.default,
)
def _elementwise(node: fx.Node, dim: int, count: int) -> Moves | None:
    size, ndim = _shape(node)[dim], len(_shape(node))
    if node.kwargs:
        return None
    operands = {}
    for i, a in enumerate(node.args):
        if isinstance(a, fx.Node):
            d = dim - (ndim - len(_shape(a)))
            if d >= 0 and _shape(a)[d] == size:
                operands[i] = d
    return operands, {}


def _convolution_backward(node: fx.Node, dim: int, count: int) -> Moves | None:
    """Argument positions: 0 dy, 1 x, 2 w, 9 groups. Only the dW output is asked for.

    w is [O, I/G, …], of a transposed convolution [I, O/G, …].
    """
    transposed, groups = node.args[7], node.args[9]
    w = _shape(node.args[2])
    outer, inner = (1, 0) if transposed else (0, 1)  # operands whose channels w's dims 0 and 1 run over
    if groups == 1:
        return ({(outer, inner)[dim]: 1, 2: dim}, {}) if dim < 2 else None
    if dim == 0 and groups == w[0] and w[1] == 1:
        return {0: 1, 1: 1, 2: 0}, {9: count}  # depthwise: a channel of w has one of x and one of dy
    return ({inner: InGroups(1, groups), 2: 1}, {}) if dim == 1 else None  # pyright: ignore


def _layer_norm_backward(node: fx.Node, count: int) -> Moves | None:
    """Argument positions: 0 dy, 1 x, 2 normalized shape, 5 w, 6 bias. Only the dW output is asked for.

    The statistics are operands, so that each channel of dW needs only its own channel of x.
    """
    if len(node.args[2]) != 1:  # pyright: ignore
        return None
    last = len(_shape(node.args[0])) - 1
    return {0: last, 1: last, 5: 0}, {2: [count], 6: None}


def _product(sizes: tuple[int, ...]) -> int:
    p = 1
    for s in sizes:
        p *= s
    return p


class Slicer:
    """Rewrites one graph so that gradients come out with some channels only.

    A node that other outputs need as well is computed whole anyway, so the selection rests on it.

    Args:
        graph: changed in place.
        exclusive: the nodes that serve one gradient only.
        parts: the graph's input for a trained part of a tensor, by (whole weight, dim, index node):
            selecting that part of the weight is then that input itself.
    """

    def __init__(
        self,
        graph: fx.Graph,
        exclusive: set[fx.Node],
        parts: Mapping[tuple[fx.Node, Along, fx.Node], fx.Node],
    ) -> None:
        self._graph, self._exclusive, self._parts = graph, exclusive, parts
        self._done: dict[tuple[fx.Node, Along, fx.Node], fx.Node] = {}

    def select(self, node: fx.Node, dim: Along, channels: fx.Node) -> fx.Node:
        """`node` with only `channels` (an index input, int64 [count]) along `dim`."""
        key = (node, dim, channels)
        if key not in self._done:
            self._done[key] = self._parts.get(key) or self._move(node, dim, channels)
        return self._done[key]

    def _move(self, node: fx.Node, dim: Along, channels: fx.Node) -> fx.Node:
        count = _shape(channels)[0]
        moved = moves(node, dim, count) if node in self._exclusive else None
        phase = node.meta.get("phase", "forward")
        builder = Builder(self._graph, phase, node.meta.get("layer", ""), node.meta.get("source", ""))
        if moved is None:
            # On a saved activation the selection belongs to the forward pass, right after it.
            if isinstance(dim, InGroups):
                return self._rest_in_groups(builder, node, dim, channels)
            with builder.after(node):
                return builder.call(aten.index_select.default, node, dim, channels)
        inner: Any = node.args[0] if node.target is operator.getitem else node
        operands, changed = moved
        args = list(inner.args)
        for i, d in operands.items():
            args[i] = self.select(args[i], d, channels)
        for i, value in changed.items():
            args[i] = value
        with builder.before(node):
            new = builder.call(inner.target, *args)
            if node.target is operator.getitem:
                got = self._graph.call_function(operator.getitem, (new, node.args[1]))
                got.meta = {**new.meta, "val": new.meta["val"][node.args[1]]}
                return got
            return new

    def _rest_in_groups(self, builder: Builder, node: fx.Node, at: InGroups, channels: fx.Node) -> fx.Node:
        size = list(_shape(node))
        after, count = size[at.dim + 1 :], _shape(channels)[0]
        with builder.after(node):
            grouped = builder.call(
                aten.reshape.default, node, [*size[: at.dim], at.groups, size[at.dim] // at.groups, *after]
            )
        with builder.after(grouped):
            selected = builder.call(aten.index_select.default, grouped, at.dim + 1, channels)
        with builder.after(selected):
            return builder.call(aten.reshape.default, selected, [*size[: at.dim], at.groups * count, *after])
