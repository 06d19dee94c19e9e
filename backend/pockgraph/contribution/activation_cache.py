"""Cached activations: the forward pass before every trained tensor, computed once per batch and kept.

Before → after, for a plan that trains `stage3` and the head:

    batch ─ stem ─ stage1 ─ stage2 ─ stage3 ─ head ─ loss        one graph, every step

    batch ─ stem ─ stage1 ─ stage2 ─► kept                       the prefix, once per batch
                               kept ─ stage3 ─ head ─ loss       the suffix, every step

Exact: the suffix runs the same operators on the same values. A few cuts serve all plans: where a plan
trains something between two cuts, its suffix starts at the cut before.
"""

from __future__ import annotations

import itertools
import operator
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import fx

from ..cost.flops import node_flops
from ..ir.graph import Graph, Role, Slot, aten, dtype_name, rebuilt, value_bytes

# What starting one operator costs, as the work it could have done meanwhile (10 µs at 20 GFLOP/s).
NODE_OVERHEAD_FLOPS = 200_000
# How much of the forward pass a suffix may repeat for the sake of a narrower cut.
REPEATED_RATIO = 0.05

Kept = Mapping[str, torch.Tensor]  # slot name -> value, for one batch


@dataclass(frozen=True, eq=False)
class Cut:
    """A place in the forward pass.

    Attributes:
        position: how many forward operators that depend on the batch lie before it.
        values: what crosses it: nodes before it, and entries of the batch.
    """

    position: int
    values: tuple[fx.Node, ...]

    @property
    def nbytes(self) -> int:
        """Of what crosses, for one batch."""
        return sum(value_bytes(v.meta["val"]) for v in self.values)


class Forward:
    """The forward operators of a graph that depend on the batch, in schedule order.

    Attributes:
        graph: loss and gradients, or the metric.
        nodes: those operators.
        first_use: FQN -> the position of the first of them that needs the parameter.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.batch = tuple(
            n for s, n in zip(graph.inputs, graph.placeholders.values()) if s.role is Role.BATCH
        )
        depends = set(self.batch)
        self.nodes: list[fx.Node] = []
        for node in graph.nodes():
            if any(a in depends for a in node.all_input_nodes):
                depends.add(node)
                if node.meta["phase"] == "forward":
                    self.nodes.append(node)
        self._at = {n: i for i, n in enumerate(self.nodes)}
        self.first_use = {
            s.fqn: min((self._at[u] for u in self._users(n)), default=len(self.nodes))
            for s, n in zip(graph.inputs, graph.placeholders.values())
            if s.role is Role.PARAM
        }
        work = (node_flops(n) + NODE_OVERHEAD_FLOPS for n in self.nodes)
        self.work_before = [0, *itertools.accumulate(work)]

    def _users(self, node: fx.Node) -> Iterator[fx.Node]:
        """Forward operators on the batch that need `node`, directly or by way of other constants."""
        todo, seen = [node], set()
        while todo:
            for user in todo.pop().users:
                if user in self._at:
                    yield user
                elif user.op == "call_function" and user.meta["phase"] == "forward" and user not in seen:
                    seen.add(user)
                    todo.append(user)

    def position(self, tensors: Iterable[str]) -> int:
        """How far the forward pass depends on none of `tensors`."""
        return min((self.first_use.get(t, len(self.nodes)) for t in tensors), default=len(self.nodes))

    def work_after(self, tensors: Iterable[str]) -> int:
        """FLOPs (and overhead, see `NODE_OVERHEAD_FLOPS`) from the first use of `tensors` on."""
        return self.work_before[-1] - self.work_before[self.position(tensors)]

    @cached_property
    def crossing_bytes(self) -> list[int]:
        """Bytes of what forward operators read across each position."""
        change = [0] * (len(self.nodes) + 2)
        for node in (*self.batch, *self.nodes):
            size = value_bytes(node.meta["val"])
            last = max((self._at[u] for u in node.users if u in self._at), default=-1)
            born = self._at.get(node, -1)
            if last > born and isinstance(node.meta["val"], torch.Tensor):
                change[born + 1] += size
                change[last + 1] -= size
        return list(itertools.accumulate(change))[: len(self.nodes) + 1]

    def may_cut(self, position: int) -> bool:
        """Whether a cut may lie here: not between an operator and the scale or shift after it.

        The passes fold those into the operator, on either side of a cut as in the whole graph; split from
        it they would be rounded another way.
        """
        if position in (0, len(self.nodes)):
            return True
        node = self.nodes[position]
        per_channel = any(a not in self._at and a not in self.batch for a in node.all_input_nodes)
        return not (per_channel and node.target in (aten.mul.Tensor, aten.add.Tensor))

    def cut(self, position: int) -> Cut:
        """The cut at `position`, with exactly what its suffix reads."""
        return Cut(position, self._reach(position)[1])

    def suffix(self, cut: Cut) -> Graph:
        """The graph after a cut: what crosses it are BATCH inputs, named by `slot_of`.

        Gradients of tensors used before the cut are no outputs any more.
        """
        live, _ = self._reach(cut.position)
        new = fx.Graph()
        copied: dict[fx.Node, fx.Node] = {}
        slots = []
        for value in cut.values:
            copied[value] = new.placeholder(f"prefix_{value.name}")
            copied[value].meta["val"] = value.meta["val"]
            slots.append(self.slot_of(value))
        inputs = dict(zip(self.graph.placeholders.values(), self.graph.inputs))
        for node in self.graph.fx.nodes:
            if node in live:
                copied[node] = new.node_copy(node, copied.__getitem__)
                if node in inputs:
                    slots.append(inputs[node])
        kept = self._outputs(cut.position)
        new.output(tuple(copied[n] for _, n in kept))
        outputs = tuple(s for s, _ in kept)
        return rebuilt(self.graph, new, inputs=tuple(slots), outputs=outputs)

    def prefix(self, values: Collection[fx.Node]) -> Graph:
        """The graph from the batch to `values`, operators of this graph; outputs are named by `slot_of`."""
        wanted = [v for v in values if v.op == "call_function"]
        live, todo = set(), list(wanted)
        while todo:
            node = todo.pop()
            if node not in live:
                live.add(node)
                todo.extend(node.all_input_nodes)
        new = fx.Graph()
        copied: dict[fx.Node, fx.Node] = {}
        slots = []
        inputs = dict(zip(self.graph.placeholders.values(), self.graph.inputs))
        for node in self.graph.fx.nodes:
            if node in live or node in self.batch:
                copied[node] = new.node_copy(node, copied.__getitem__)
                if node in inputs:
                    slots.append(inputs[node])
        new.output(tuple(copied[v] for v in wanted))
        outputs = tuple(self.slot_of(v) for v in wanted)
        return rebuilt(self.graph, new, inputs=tuple(slots), outputs=outputs)

    def slot_of(self, value: fx.Node) -> Slot:
        """How a value that crosses a cut is named."""
        if value.op == "placeholder":
            return next(s for s, n in zip(self.graph.inputs, self.graph.placeholders.values()) if n is value)
        val = value.meta["val"]
        return Slot(Role.BATCH, f"prefix.{value.name}", tuple(val.shape), dtype_name(val.dtype))

    def _outputs(self, position: int) -> list[tuple[Slot, fx.Node]]:
        return [
            (s, n)
            for s, n in zip(self.graph.outputs, self.graph.results.values())
            if s.role is not Role.GRAD or self.first_use[s.fqn] >= position
        ]

    def _reach(self, position: int) -> tuple[set[fx.Node], tuple[fx.Node, ...]]:
        """(nodes of the suffix, inputs included; what crosses into it)."""
        before = set(self.nodes[:position])
        # A cut never separates an operator with several results from the results.
        before |= {u for n in before for u in n.users if u.target is operator.getitem}
        before |= set(self.batch)
        live: set[fx.Node] = set()
        crossing: set[fx.Node] = set()
        todo = [n for _, n in self._outputs(position)]
        while todo:
            node = todo.pop()
            if node in before:
                crossing.add(node)
            elif node not in live:
                live.add(node)
                todo.extend(node.all_input_nodes)
        return live, tuple(n for n in self.graph.fx.nodes if n in crossing)


def choose_cuts(forward: Forward, plans: Iterable[Collection[str]], limit_bytes: int) -> tuple[Cut, ...]:
    """Cuts, first ones first, that spare the most work for these plans within `limit_bytes` a batch.

    The whole graph (position 0) is always among them and needs no memory.

    Args:
        plans: the tensors that each plan trains.
        limit_bytes: of all that crosses the cuts, for one batch.
    """
    ends = [forward.position(p) for p in plans]
    positions = set()
    for end in set(ends):
        places = [p for p in range(end + 1) if forward.may_cut(p)]
        near = forward.work_before[places[-1]] - REPEATED_RATIO * forward.work_before[-1]
        window = [p for p in places if forward.work_before[p] >= near]
        # Of equally narrow places the last, which leaves the least to repeat.
        positions.add(min(window, key=lambda p: (forward.crossing_bytes[p], -p)))
    cuts = [forward.cut(p) for p in sorted(positions - {0})]
    while cuts and union_bytes(cuts) > limit_bytes:
        cuts.remove(_least_useful(forward, cuts, ends))
    return (forward.cut(0), *cuts)


def union_bytes(cuts: Iterable[Cut]) -> int:
    """Bytes that keeping these cuts takes for one batch; what crosses several counts once."""
    return sum(value_bytes(v.meta["val"]) for v in {v for c in cuts for v in c.values})


def _least_useful(forward: Forward, cuts: list[Cut], ends: list[int]) -> Cut:
    """The cut that spares the least work for the memory it takes."""
    positions = [c.position for c in cuts]
    all_bytes = union_bytes(cuts)

    def worth(i: int) -> float:
        plans = sum(bisect_right(positions, end) - 1 == i for end in ends)
        previous = positions[i - 1] if i else 0
        spared = plans * (forward.work_before[positions[i]] - forward.work_before[previous])
        freed = all_bytes - union_bytes(cuts[:i] + cuts[i + 1 :])
        return spared / freed if freed else float("inf")

    return cuts[min(range(len(cuts)), key=worth)]
