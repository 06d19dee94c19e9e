"""Indices that a graph computes itself: kept within bounds, and a result that says when they were not.

    w = table[i % 7 + j]      →      bad = (k < -9) | (k > 8);  w = table[k where not bad, else 0]
    loss                      →      loss where not any bad, else -inf

What a batch entry may hold is checked before a step (`value_limits.py`). Of other indices, those that
interval arithmetic keeps in bounds are left alone (`ranges.py`); for the rest no runtime says what happens,
so the graph itself must: the trainer undoes a step whose loss is -inf.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from .graph import Builder, Graph, Role, aten, output_args, rebuilt
from .ranges import Range, ranges_of
from .value_limits import Index, entries_of, indices_of, limit_of

# What a result is when an index was out of bounds: a loss is hardly ever -inf, a metric may well be.
MARKS = {Role.LOSS: -math.inf, Role.METRIC: math.nan}


def guarded(graph: Graph) -> Graph:
    """The graph with every index in bounds whatever the batch holds, if `limits_of` are kept."""
    entries = entries_of(graph)
    checked: dict[str, Range] = {}
    computed: list[Index] = []
    for index in _by_operand(indices_of(graph)):
        limit = limit_of(index, entries)
        if limit is None:
            computed.append(index)
        elif limit.places is None:
            known = Range(min([limit.low, *limit.also]), max([limit.high, *limit.also]))
            before = checked.get(limit.entry, known)
            checked[limit.entry] = Range(max(known.low, before.low), min(known.high, before.high))
    if not computed:
        return graph
    ranges = ranges_of(graph, checked)
    computed = [i for i in computed if not (i.value in ranges and ranges[i.value].within(i.low, i.high))]
    return _with_guards(graph, computed) if computed else graph


def _by_operand(indices: Iterable[Index]) -> list[Index]:
    """One for each operand of a call, as `x[i, i]` has only one `i`, which must fit both dimensions."""
    found: dict[tuple[fx.Node, fx.Node], Index] = {}
    for index in indices:
        key = index.node, index.value
        other = found.get(key, index)
        low, high = max(index.low, other.low), min(index.high, other.high)
        found[key] = index._replace(low=low, high=high)
    return list(found.values())


def guards_of(graph: Graph) -> tuple[str, ...]:
    """What the guarded indices are, in words, with the place in the user's code."""
    return tuple(dict.fromkeys(n.meta["guards"] for n in graph.nodes() if "guards" in n.meta))


def _with_guards(graph: Graph, computed: list[Index]) -> Graph:
    new = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    new.output(new.graph_copy(graph.fx, copied))
    safe: dict[tuple[Any, ...], fx.Node] = {}
    bad: list[fx.Node] = []
    for index in computed:
        value = copied[index.value]
        key = (value, index.low, index.high, index.also)
        if key not in safe:
            at = index.node.meta
            b = Builder(new, index.value.meta.get("phase", "forward"), at["layer"], at["source"])
            with b.after(value):
                out = b.call(aten.lt.Scalar, value, index.low)
            with b.after(out):
                over = b.call(aten.gt.Scalar, value, index.high)
            with b.after(over):
                out = b.call(aten.logical_or.default, out, over)
            for other in index.also:
                with b.after(out):
                    differs = b.call(aten.ne.Scalar, value, other)
                with b.after(differs):
                    out = b.call(aten.logical_and.default, out, differs)
            with b.after(out):
                safe[key] = b.call(aten.masked_fill.Scalar, value, out, max(index.low, 0))
            where = f" ({at['source']})" if at["source"] else ""
            out.meta["guards"] = f"{index.why}{where}"
            bad.append(out)
        if index.reads:
            copied[index.node].replace_input_with(value, safe[key])
    _mark(new, graph, bad)
    new.eliminate_dead_code()
    return rebuilt(graph, new)


def _mark(new: fx.Graph, graph: Graph, bad: list[fx.Node]) -> None:
    results = list(output_args(new))
    number, slot = next((i, s) for i, s in enumerate(graph.outputs) if s.role in MARKS)
    last = results[number]
    b = Builder(new, "forward")
    with b.before(new.output_node()):
        counts = [
            b.call(aten.sum.default, b.call(aten._to_copy.default, n, dtype=torch.float32)) for n in bad
        ]
        total = counts[0]
        for count in counts[1:]:
            total = b.call(aten.add.Tensor, total, count)
        mask = b.call(aten.gt.Scalar, total, 0.0)
        shape = list(last.meta["val"].shape)
        if shape:
            mask = b.call(aten.expand.default, b.call(aten.reshape.default, mask, [1] * len(shape)), shape)
        results[number] = b.call(aten.masked_fill.Scalar, last, mask, MARKS[slot.role])
    new.output_node().args = (tuple(results),)
