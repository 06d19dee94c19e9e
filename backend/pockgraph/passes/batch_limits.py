"""Which values of a batch the graph can take: the rows that an index may name.

No runtime says anything about an index out of bounds: one wraps around, one reads other memory. So what the
operators that take indices allow is derived from the graph, back through views, slices, casts and integer
arithmetic with constants, to the batch entry that the index comes from. The same holds for integers that a
target computes with in floating-point numbers. Devices check it, see `runtime/batch_limits.py`.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import fx

from ..ir.graph import Graph, Role, aten, bound_args
from ..recurrent.operators import ops
from ..runtime.batch_limits import Limit

_SAME = (aten.clone.default, aten.detach.default, aten.alias.default, aten._to_copy.default)
_MOVES = (
    aten.reshape.default, aten.view.default, aten._unsafe_view.default, aten.permute.default, aten.t.default,
    aten.transpose.int, aten.expand.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims,
    aten.unsqueeze.default, aten.slice.Tensor, aten.select.int, aten.flip.default,
)  # fmt: skip
_ALONG_A_DIM = (
    aten.gather.default, aten.index_select.default, aten.scatter.src, aten.scatter.value,
    aten.scatter.reduce, aten.scatter.value_reduce, aten.scatter_add.default, aten.scatter_reduce.two,
    aten.index_add.default, aten.index_copy.default, aten.index_reduce.default,
)  # fmt: skip
_FILLS = (aten.index_fill.int_Scalar, aten.index_fill.int_Tensor)  # they count negative indices from the end
_BY_POSITION = (
    aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten._unsafe_index_put.default
)  # fmt: skip
_SORTS = (aten.sort.default, aten.sort.stable)
_SHIFTS = (aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar)
_SCALES = (aten.mul.Tensor, aten.mul.Scalar)
_LINEAR = (*_SHIFTS, *_SCALES)
REMEDY = (
    "Split them into smaller numbers before, such as a time into days and seconds, number ids from zero, or "
    "take another target."
)
_LOSSES = (
    aten.nll_loss_forward.default, aten.nll_loss2d_forward.default, aten.nll_loss_backward.default,
    aten.nll_loss2d_backward.default,
)  # fmt: skip
# Where their scores stand; the labels follow.
_MARGINS = {
    aten.multi_margin_loss.default: 0, aten.multi_margin_loss_backward.default: 1,
    aten.multilabel_margin_loss_forward.default: 0, aten.multilabel_margin_loss_backward.default: 1,
}  # fmt: skip
_FORWARD_BAGS = (aten._embedding_bag.default, aten._embedding_bag_forward_only.default)
_OFFSETS = (
    "Let the offsets begin at 0, rise to the number of ids at most, and end there where the last is included."
)
# Where their ids stand, and the table or its number of rows.
_BAGS = {
    aten._embedding_bag.default: (1, 0), aten._embedding_bag_forward_only.default: (1, 0),
    aten._embedding_bag_backward.default: (1, 6),
    aten._embedding_bag_per_sample_weights_backward.default: (2, 1),
}  # fmt: skip


class Index(NamedTuple):
    """A value that a call uses as an index.

    Attributes:
        node: the call; value: what it is given.
        low, high: the smallest and the largest index; also: values beside these.
        why: what they are, in words.
        reads: whether the call reads memory by it; False: it only compares it with every index.
        at: the only element meant, of a vector; None: all.
        ascending: no value is smaller than the one before.
        remedy: what to do about others; empty for what helps with indices.
    """

    node: fx.Node
    value: fx.Node
    low: int
    high: int
    also: tuple[int, ...]
    why: str
    reads: bool = True
    at: int | None = None
    ascending: bool = False
    remedy: str = ""


def limits_of(graph: Graph, exact_below: int | None = None) -> tuple[Limit, ...]:
    """What each batch entry that is used as an index may hold; `guard_indices.py` sees to other indices.

    Args:
        exact_below: the target computes with integers as if they were smaller than this, and holds them in
            32 bits; None: with all of them.
    """
    entries = entries_of(graph)
    limits = (limit_of(index, entries) for index in indices_of(graph))
    found = dict.fromkeys(limit for limit in limits if limit is not None)
    if exact_below is not None:
        for limit in _exact(graph, entries, exact_below):
            if not any(_implies(other, limit) for other in found):
                found[limit] = None
    return tuple(found)


def unknown_lengths(graph: Graph) -> fx.Node | None:
    """Lengths of which one must be the largest, and that no device can check, as they are no batch entry."""
    entries = entries_of(graph)
    lengths = (i for i in indices_of(graph) if i.node.target is ops.lengths.default and i.node.args[2])
    return next((i.node for i in lengths if limit_of(i, entries) is None), None)


def entries_of(graph: Graph) -> dict[fx.Node, str]:
    """The batch entries, by their placeholders."""
    slots = zip(graph.inputs, graph.placeholders.values())
    return {node: slot.fqn for slot, node in slots if slot.role is Role.BATCH}


def indices_of(graph: Graph) -> Iterator[Index]:
    """Every value that is used as an index."""
    for node in graph.nodes():
        for index in (*_indices(node), *_one_hot(node, graph)):
            if isinstance(index.value, fx.Node) and index.value.meta["val"].dtype != torch.bool:
                yield index


def _exact(graph: Graph, entries: dict[fx.Node, str], below: int) -> Iterator[Limit]:
    """Where integers of a batch are computed with, and where they are only held or cast."""
    computed = f"integers that this target computes with exactly below 2**{below.bit_length() - 1} only"
    for node in graph.nodes():
        if node.target in (
            *_MOVES, *_SAME, *_LOSSES, *_ALONG_A_DIM, *_BY_POSITION, *_FILLS, aten.embedding.default
        ):  # fmt: skip
            continue
        values = [*node.all_input_nodes, *([node] if node.target in _LINEAR else [])]
        for value in filter(is_wide, values):
            limit = limit_of(Index(value, value, 1 - below, below - 1, (), computed), entries)
            if limit is not None:
                yield limit.model_copy(update={"remedy": REMEDY})
    for node, name in entries.items():
        if node.users and node.meta["val"].dtype == torch.int64:
            held = "integers that this target holds in 32 bits"
            yield Limit(entry=name, low=-(2**31), high=2**31 - 1, why=held, remedy=REMEDY)


def is_wide(node: fx.Node) -> bool:
    """Whether it is an integer that a target may not hold exactly."""
    val = node.meta["val"]
    return isinstance(val, torch.Tensor) and val.dtype in (torch.int64, torch.int32)


def _implies(one: Limit, other: Limit) -> bool:
    """Whether what `one` lets pass, `other` does."""
    values = (one.low, one.high, *one.also)
    same = one.entry == other.entry and one.places in (None, other.places)
    return same and all(other.low <= v <= other.high for v in values)


def _indices(node: fx.Node) -> Iterator[Index]:
    args: Any = node.args
    target: Any = node.target
    if target is aten.embedding.default:
        rows = args[0].meta["val"].shape[0]
        yield Index(node, args[1], 0, rows - 1, (), f"ids of an embedding of {rows} rows")
    elif target is aten.embedding_dense_backward.default:
        yield Index(node, args[1], 0, args[2] - 1, (), f"ids of an embedding of {args[2]} rows")
    elif target in _LOSSES:
        given = dict(zip((a.name for a in target._schema.arguments), args))
        shape = given["self"].meta["val"].shape
        classes = shape[1] if len(shape) > 1 else shape[0]
        ignored = given.get("ignore_index", -100)
        also = () if 0 <= ignored < classes else (ignored,)
        why = f"class labels of a loss over {classes} classes"
        yield Index(node, given["target"], 0, classes - 1, also, why)
    elif target in _ALONG_A_DIM:
        x, dim, index = args[:3]
        size = _size(x, dim)
        yield Index(node, index, 0, size - 1, (), f"indices of {size} places")
    elif target in _FILLS:
        size = _size(args[0], args[1])
        yield Index(node, args[2], -size, size - 1, (), f"indices of {size} places")
    elif target in _MARGINS:
        x, labels = args[_MARGINS[target] :][:2]
        classes = x.meta["val"].shape[-1]
        low = -1 if "multilabel" in str(target) else 0  # a list of labels ends at -1
        yield Index(node, labels, low, classes - 1, (), f"class labels of a loss over {classes} classes")
    elif target in _BAGS:
        index, table = (args[i] for i in _BAGS[target])
        rows = table if isinstance(table, int) else table.meta["val"].shape[0]
        yield Index(node, index, 0, rows - 1, (), f"ids of an embedding of {rows} rows")
        if target in _FORWARD_BAGS:
            yield from _offsets(node)
    elif target is ops.lengths.default:
        yield Index(node, args[0], 1, args[1], (), f"lengths of sequences over {args[1]} steps")
    elif target in (aten.take.default, aten.put.default):
        size = args[0].meta["val"].numel()
        yield Index(node, args[1], -size, size - 1, (), f"indices of {size} places")
    elif target in _BY_POSITION:
        for size, index in zip(args[0].meta["val"].shape, args[1]):
            yield Index(node, index, -size, size - 1, (), f"indices of {size} places")


def _size(x: fx.Node, dim: int) -> int:
    return x.meta["val"].shape[dim] if x.meta["val"].ndim else 1


def _offsets(node: fx.Node) -> Iterator[Index]:
    """Where the bags of an embedding bag begin: at the first id, one after the other."""
    _, ids, offsets, *_, last_included, _ = bound_args(node)
    count = ids.meta["val"].numel()
    ends = [("first", 0, 0), *([("last", -1, count)] if last_included else [])]
    why = f"offsets of an embedding bag over {count} ids"
    yield Index(node, offsets, 0, count, (), why, reads=False, ascending=True, remedy=_OFFSETS)
    for which, at, number in ends:
        why = f"{which} offsets of an embedding bag over {count} ids"
        yield Index(node, offsets, number, number, (), why, reads=False, at=at, remedy=_OFFSETS)


def _one_hot(node: fx.Node, graph: Graph) -> Iterator[Index]:
    """`one_hot(index, n)`, which is captured as `(index[…, None] == arange(n)).long()`."""
    args: Any = node.args
    if node.target is not aten._to_copy.default or node.meta["val"].dtype != torch.int64:
        return
    if args[0].target is not aten.eq.Tensor or args[0].args[0].target is not aten.unsqueeze.default:
        return
    index, classes = args[0].args
    for name, placeholder in graph.placeholders.items():
        if placeholder is classes and name in graph.values:
            count = classes.meta["val"].numel()
            if torch.equal(graph.values[name], torch.arange(count)):
                yield Index(node, index, 0, count - 1, (), f"labels of one_hot with {count} classes", False)


def limit_of(index: Index, entries: Mapping[fx.Node, str]) -> Limit | None:
    """The limit of the entry that an index comes from; None where it comes from none, or is computed."""
    low, high, also = index.low, index.high, index.also
    moves: list[fx.Node] = []
    node = index.value
    while node not in entries:
        args: Any = node.args
        if node.target in _MOVES:
            moves.append(node)
        elif node.target in _SHIFTS:
            if len(args) != 2 or node.kwargs or not isinstance(args[1], int):
                return None
            by = args[1] if node.target in (aten.add.Tensor, aten.add.Scalar) else -args[1]
            low, high, also = low - by, high - by, tuple(v - by for v in also)
        elif node.target in _SCALES:
            if not isinstance(args[1], int) or args[1] < 1:
                return None
            low, high = math.ceil(low / args[1]), high // args[1]
            also = tuple(v // args[1] for v in also if v % args[1] == 0)
        elif _values_of_sort(node) is not None:
            args = args[0].args
        elif node.target not in _SAME:
            return None
        node = args[0]
    uses = index.node is not index.value and index.node.target is not ops.lengths.default
    if uses and node.meta["val"].dtype.is_floating_point:
        return None  # 9.9 is cast to 9: the graph itself tells what an index becomes
    if node.meta["val"].dtype in (torch.bool, torch.uint8, torch.int8) and low <= -128 and high >= 255:
        return None
    limit = Limit(
        entry=entries[node], low=low, high=high, also=also, why=index.why, remedy=index.remedy,
        places=_places(node, moves, index.at), ascending=index.ascending,
    )  # fmt: skip
    return _of_lengths(index, limit) if index.node.target is ops.lengths.default else limit


def _of_lengths(index: Index, limit: Limit) -> Limit:
    args: Any = index.node.args
    lengths, _, reached, descending = args
    while lengths.target in _SAME:
        lengths = lengths.args[0]
    sorts = _values_of_sort(lengths) is not None
    return limit.model_copy(update={"reached": reached, "descending": descending and not sorts})


def _values_of_sort(node: fx.Node) -> fx.Node | None:
    """What is sorted, where `node` is the values of a sort."""
    args: Any = node.args
    if node.target is operator.getitem and args[1] == 0 and args[0].target in _SORTS:
        return args[0].args[0]
    return None


def _places(
    entry: fx.Node, moves: list[fx.Node], at: int | None
) -> tuple[tuple[int, int, int], ...] | tuple[int, ...] | None:
    """Which elements of the entry get there: None for all, slices, or flat numbers."""
    shape = entry.meta["val"].shape
    numbers = torch.arange(entry.meta["val"].numel()).reshape(shape)
    for node in reversed(moves):
        numbers = node.target(numbers, *node.args[1:], **node.kwargs)  # pyright: ignore
    reached = numbers.unique() if at is None else numbers.reshape(-1)[at].reshape(1)
    if reached.numel() == entry.meta["val"].numel():
        return None
    spans = []
    for places in torch.unravel_index(reached, shape):
        used = places.unique().tolist()
        steps = {b - a for a, b in itertools.pairwise(used)} or {1}
        spans.append((used[0], used[-1] + 1, steps.pop() if len(steps) == 1 else 0))
    count = math.prod(len(range(*s)) if s[2] else 0 for s in spans)
    return tuple(spans) if count == reached.numel() else tuple(reached.tolist())
