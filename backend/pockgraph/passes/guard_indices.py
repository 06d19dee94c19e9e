"""Indices that a graph computes itself: kept within bounds, and a result that says when they were not.

    w = table[i % 7 + j]      →      bad = (k < -9) | (k > 8);  w = table[k where not bad, else 0]
    loss                      →      loss where not any bad, else a number that says so

What a batch entry may hold is checked before a step (`batch_limits.py`). Of other indices, those that
interval arithmetic keeps in bounds are left alone (`ir/integer_ranges.py`); for the rest no runtime
says what happens, so the graph itself must: the trainer undoes a step whose loss is that number
(`runtime/result_marks.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import fx

from ..ir.graph import Builder, Graph, Role, Slot, aten, dtype_name, output_args, rebuilt
from ..ir.integer_ranges import Range, ranges_of
from ..runtime.result_marks import INEXACT, OUT_OF_BOUNDS
from .batch_limits import Index, entries_of, indices_of, is_wide, limit_of, limits_of

# Operators on integers whose results may be larger than their operands; those that add up.
_SUMS = (aten.sum, aten.cumsum)
_SHIFTS = (aten.__lshift__, aten.bitwise_left_shift)
_GROWING = (
    *_SUMS, *_SHIFTS, aten.add, aten.sub, aten.rsub, aten.mul, aten.pow, aten.square, aten.prod, aten.cumprod
)  # fmt: skip
# Dtypes that hold the numbers of `runtime/result_marks.py`; a result of another is cast and keeps its value.
_MARKED = (torch.float32, torch.float64, torch.int32, torch.int64)


@dataclass(frozen=True)
class GuardIndices:
    """Every index in bounds whatever the batch holds, if `limits_of` are kept.

    Attributes:
        integers_below: the target computes with integers as if they were smaller than this: those that the
            graph makes of a batch are checked, too. None: with all of them.
    """

    name: ClassVar[str] = "guard_indices"
    integers_below: int | None = None

    def __call__(self, graph: Graph) -> Graph:
        below, entries = self.integers_below, entries_of(graph)
        checked: dict[str, Range] = {}
        computed: list[Index] = []
        for index in _by_operand(indices_of(graph)):
            limit = limit_of(index, entries)
            if limit is None:
                computed.append(index)
            elif limit.places is None:
                _narrow(checked, limit.entry, min([limit.low, *limit.also]), max([limit.high, *limit.also]))
        if below is not None:
            for limit in limits_of(graph, below):
                if limit.places is None and not limit.also:
                    _narrow(checked, limit.entry, limit.low, limit.high)
        elif not computed:
            return graph
        ranges = ranges_of(graph, checked)
        computed = [i for i in computed if not _is_certain(i, graph, ranges)]
        wide = [] if below is None else _wide(graph, entries, ranges, below)
        return _with_guards(graph, computed, wide, below or 0) if computed or wide else graph


def _narrow(checked: dict[str, Range], entry: str, low: int, high: int) -> None:
    """What is checked of an entry before a step holds together with `low` to `high`."""
    before = checked.get(entry, Range(low, high))
    checked[entry] = Range(max(low, before.low), min(high, before.high))


def _wide(
    graph: Graph, entries: Mapping[fx.Node, str], ranges: Mapping[fx.Node, Range], below: int
) -> list[fx.Node]:
    """What makes integers of a batch that may reach `below`, and that no limit of an entry keeps from it."""
    from_batch: set[fx.Node] = set(entries)
    found = []
    for node in graph.nodes():
        if from_batch.isdisjoint(node.all_input_nodes):
            continue
        from_batch.add(node)
        if getattr(node.target, "overloadpacket", None) not in _GROWING or not is_wide(node):
            continue
        within = node in ranges and ranges[node].within(1 - below, below - 1)
        if not within and limit_of(Index(node, node, 1 - below, below - 1, (), ""), entries) is None:
            found.append(node)
    return found


def _is_certain(index: Index, graph: Graph, ranges: Mapping[fx.Node, Range]) -> bool:
    """Whether it is within its limits, whatever a batch holds."""
    value: Any = index.value
    constant = next((s for s, n in zip(graph.inputs, graph.placeholders.values()) if n is value), None)
    if constant is not None and not constant.is_state and constant.name in graph.values:
        held = graph.values[constant.name].reshape(-1)
        held = held if index.at is None else held[index.at]
        within = bool(((held >= index.low) & (held <= index.high)).all())
        return within and not (index.ascending and bool((held.diff() < 0).any()))
    if index.ascending:
        return value.target in (aten.arange.default, aten.arange.start, aten.arange.start_step)
    if value in ranges and ranges[value].within(index.low, index.high):
        return True
    if index.at == 0:  # offsets are mostly a zero and sums of lengths
        while value.target is aten.cat.default:
            value = value.args[0][0]
        if value in ranges and ranges[value].within(index.low, index.high):
            return True
        if value.target in (aten.arange.default, aten.arange.start, aten.arange.start_step):
            return value.target is aten.arange.default or value.args[0] == index.low
    return False


def _by_operand(indices: Iterable[Index]) -> list[Index]:
    """One for each operand of a call, as `x[i, i]` has only one `i`, which must fit both dimensions."""
    found: dict[tuple[Any, ...], Index] = {}
    for index in indices:
        key = index.node, index.value, index.at
        other = found.get(key, index)
        low, high = max(index.low, other.low), min(index.high, other.high)
        found[key] = index._replace(low=low, high=high)
    return list(found.values())


def guards_of(graph: Graph, number: int) -> tuple[str, ...]:
    """What is guarded that gives `number`, in words, with the place in the user's code."""
    found = (n.meta["guards"] for n in graph.nodes() if "guards" in n.meta)
    return tuple(dict.fromkeys(words for says, words in found if says == number))


def _with_guards(graph: Graph, computed: list[Index], wide: list[fx.Node], below: int) -> Graph:
    new = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    new.output(new.graph_copy(graph.fx, copied))
    safe: dict[tuple[Any, ...], fx.Node] = {}
    bad: list[fx.Node] = []
    for index in computed:
        value = copied[index.value]
        key = (value, index.low, index.high, index.also, index.at, index.reads, index.ascending)
        if key not in safe:
            at = index.node.meta
            b = Builder(new, index.value.meta.get("phase", "forward"), at["layer"], at["source"])
            found = _bad(b, value, index)
            for node in found:
                node.meta["guards"] = OUT_OF_BOUNDS, _words(index)
            bad += found
            safe[key] = value
            if index.reads:
                with b.after(found[0]):
                    safe[key] = b.call(aten.masked_fill.Scalar, value, found[0], max(index.low, 0))
        if index.reads:
            copied[index.node].replace_input_with(value, safe[key])
    outputs = _marked(new, graph.outputs, bad, OUT_OF_BOUNDS)
    outputs = _marked(new, outputs, [_inexact(new, copied[node], below) for node in wide], INEXACT)
    new.eliminate_dead_code()
    return rebuilt(graph, new, outputs=outputs)


def _calls_after(b: Builder, node: fx.Node) -> Callable[..., fx.Node]:
    """Calls operators, each after the one before, the first after `node`."""
    last = node

    def call(op: Any, *args: Any, **kwargs: Any) -> fx.Node:
        nonlocal last
        with b.after(last):
            last = b.call(op, *args, **kwargs)
        return last

    return call


def _bad(b: Builder, value: fx.Node, index: Index) -> list[fx.Node]:
    """Where `value` is out of bounds, as masks; the first has its shape, unless one element is meant."""
    call = _calls_after(b, value)
    seen = value if index.at is None else call(aten.select.int, value, 0, index.at)
    under = call(aten.lt.Scalar, seen, index.low)
    out = call(aten.logical_or.default, under, call(aten.gt.Scalar, seen, index.high))
    for other in index.also:
        out = call(aten.logical_and.default, out, call(aten.ne.Scalar, seen, other))
    if not index.ascending or value.meta["val"].numel() < 2:
        return [out]
    before, after = call(aten.slice.Tensor, value, 0, 0, -1), call(aten.slice.Tensor, value, 0, 1)
    return [out, call(aten.lt.Tensor, after, before)]


def _inexact(new: fx.Graph, node: fx.Node, below: int) -> fx.Node:
    """Where `node` may have reached `below`: the same in floating-point numbers, which do not wrap around."""
    meta = node.meta
    call = _calls_after(Builder(new, meta.get("phase", "forward"), meta["layer"], meta["source"]), node)
    adds_up = getattr(node.target, "overloadpacket", None) in _SUMS

    def as_float(value: fx.Node) -> fx.Node:
        value = call(aten._to_copy.default, value, dtype=torch.float32)
        return call(aten.abs.default, value) if adds_up else value

    args: Any = fx.map_arg(node.args, as_float)
    if getattr(node.target, "overloadpacket", None) in _SHIFTS:
        x, by = args
        power = call(aten.exp2.default, by) if isinstance(by, fx.Node) else 2.0**by
        result = call(aten.mul.Tensor, *((x, power) if isinstance(x, fx.Node) else (power, float(x))))
    else:
        result = call(node.target, *args, **{k: v for k, v in node.kwargs.items() if k != "dtype"})
    bad = call(aten.ge.Scalar, call(aten.abs.default, result), float(below))
    bad.meta["guards"] = INEXACT, meta["source"] or str(node.target)
    return bad


def _words(index: Index) -> str:
    source = index.node.meta["source"]
    return f"{index.why} ({source})" if source else index.why


def _marked(new: fx.Graph, slots: tuple[Slot, ...], bad: list[fx.Node], number: int) -> tuple[Slot, ...]:
    """Let the loss, the metric or the first prediction be `number` where one of `bad` holds; the outputs
    afterwards."""
    if not bad:
        return slots
    results, outputs = list(output_args(new)), list(slots)
    at = next(i for i, s in enumerate(outputs) if s.role in (Role.LOSS, Role.METRIC, Role.PREDICTION))
    last = results[at]
    b = Builder(new, "forward")
    with b.before(new.output_node()):
        counts = [
            b.call(aten.sum.default, b.call(aten._to_copy.default, n, dtype=torch.float32)) for n in bad
        ]
        total = counts[0]
        for count in counts[1:]:
            total = b.call(aten.add.Tensor, total, count)
        mask = b.call(aten.gt.Scalar, total, 0.0)
        dtype = last.meta["val"].dtype
        if dtype not in _MARKED:
            dtype = torch.float32 if dtype.is_floating_point else torch.int32
            last = b.call(aten._to_copy.default, last, dtype=dtype)
        shape = list(last.meta["val"].shape)
        if shape:
            mask = b.call(aten.expand.default, b.call(aten.reshape.default, mask, [1] * len(shape)), shape)
        results[at] = b.call(aten.masked_fill.Scalar, last, mask, number)
    outputs[at] = replace(outputs[at], dtype=dtype_name(dtype))
    new.output_node().args = (tuple(results),)
    return tuple(outputs)
