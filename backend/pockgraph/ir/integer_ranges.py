"""Which integers the values of a graph can be, whatever a batch holds: interval arithmetic.

Only what is certain. A floating-point value has no range, as it may be NaN, unless it was an integer that its
dtype holds exactly. Where nothing is known of an integer, its range is that of its dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from .graph import Graph, Role, aten, bound_args


class Range(NamedTuple):
    """The smallest and the largest number that a value can be."""

    low: int
    high: int

    def within(self, low: int, high: int) -> bool:
        return low <= self.low and self.high <= high


# Results are elements of the first operand.
_PICKS = (
    aten.reshape.default, aten.view.default, aten._unsafe_view.default, aten.permute.default, aten.t.default,
    aten.transpose.int, aten.expand.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims,
    aten.unsqueeze.default, aten.slice.Tensor, aten.select.int, aten.flip.default, aten.roll.default,
    aten.clone.default, aten.detach.default, aten.alias.default, aten.repeat.default, aten.gather.default,
    aten.index_select.default, aten.index.Tensor, aten.amax.default, aten.amin.default, aten.max.default,
    aten.min.default, aten.floor.default, aten.round.default, aten.trunc.default, aten._to_copy.default,
)  # fmt: skip
_CONSTANT = (Role.PARAM, Role.BUFFER, Role.CONST)
_Of = Callable[[Any], Range | None]


def ranges_of(graph: Graph, entries: Mapping[str, Range]) -> dict[fx.Node, Range]:
    """Of every node that has one.

    Args:
        entries: of batch entries that are checked.
    """
    found: dict[Any, Range | None] = {}
    for slot, node in zip(graph.inputs, graph.placeholders.values(), strict=True):
        known = entries.get(slot.fqn) if slot.role is Role.BATCH else None
        if slot.role in _CONSTANT and not slot.is_state:
            known = _of_values(graph.values[slot.name])
        found[node] = known or _of_dtype(node)

    def of(value: Any) -> Range | None:
        if isinstance(value, int):
            return Range(int(value), int(value))
        if isinstance(value, float):
            return Range(int(value), int(value)) if math.isfinite(value) and value == int(value) else None
        return found.get(value) if isinstance(value, fx.Node) else None

    for node in graph.nodes():
        widest = _of_dtype(node)
        result = _result(node, of)
        exact = _exact(node)
        fits = result is not None and exact is not None and result.within(*exact)
        found[node] = result if fits else widest
    return {node: range_ for node, range_ in found.items() if range_ is not None}


def _of_values(value: Tensor) -> Range | None:
    if not value.numel() or value.is_floating_point() or value.is_complex():
        return None
    return Range(int(value.min()), int(value.max()))


def _of_dtype(node: fx.Node) -> Range | None:
    val = node.meta["val"]
    if not isinstance(val, Tensor) or val.is_floating_point() or val.is_complex():
        return None
    return _exact(node)


def _exact(node: fx.Node) -> Range | None:
    """The integers that a node's dtype holds, each exactly."""
    val = node.meta["val"]
    if not isinstance(val, Tensor) or val.is_complex():
        return None
    if val.dtype == torch.bool:
        return Range(0, 1)
    if val.is_floating_point():
        most = int(2 / torch.finfo(val.dtype).eps)
        return Range(-most, most)
    info = torch.iinfo(val.dtype)
    return Range(info.min, info.max)


def _result(node: fx.Node, of: _Of) -> Range | None:
    """Of a call; None where nothing is known. Whether its dtype holds that is asked afterwards."""
    target: Any = node.target
    if target in (aten.argmax.default, aten.argmin.default):
        x, dim = bound_args(node)[:2]
        val = x.meta["val"]
        return Range(0, (val.numel() if dim is None or not val.ndim else val.shape[dim]) - 1)
    if target in (aten.cat.default, aten.stack.default):
        return _union([of(part) for part in node.args[0]])  # pyright: ignore
    if target in _PICKS:
        return of(node.args[0])
    rule = _RULES.get(getattr(target, "overloadpacket", None))
    return None if rule is None else rule(of, *bound_args(node))


def _union(parts: list[Range | None]) -> Range | None:
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    return Range(min(p.low for p in known), max(p.high for p in known))


def _clamp(of: _Of, x: Any, low: Any = None, high: Any = None) -> Range | None:
    whole = of(x)
    for bound, function in ((low, max), (high, min)):
        limit = None if bound is None else of(bound)
        if bound is not None and (whole is None or limit is None):
            return None  # of a floating-point number: NaN stays NaN
        if whole is not None and limit is not None:
            whole = Range(function(whole.low, limit.low), function(whole.high, limit.high))
    return whole


def _sum(of: _Of, a: Any, b: Any, alpha: Any = 1, sign: int = 1) -> Range | None:
    x, y, factor = of(a), of(b), of(alpha)
    if x is None or y is None or factor is None or factor.low != factor.high:
        return None
    ends = sorted(sign * factor.low * end for end in y)
    return Range(x.low + ends[0], x.high + ends[1])


def _product(of: _Of, a: Any, b: Any) -> Range | None:
    x, y = of(a), of(b)
    if x is None or y is None:
        return None
    ends = [p * q for p in x for q in y]
    return Range(min(ends), max(ends))


def _remainder(of: _Of, a: Any, b: Any) -> Range | None:
    x, y = of(a), of(b)
    return None if x is None or y is None or y.low < 1 else Range(0, y.high - 1)


def _quotient(of: _Of, a: Any, b: Any, rounding_mode: Any = "floor") -> Range | None:
    x, y = of(a), of(b)
    if x is None or y is None or y.low < 1 or rounding_mode is None:
        return None
    ends = [p // q for p in x for q in y]
    return Range(min(ends), max(ends) + (rounding_mode == "trunc"))  # towards zero, a negative one is more


_RULES: dict[Any, Callable[..., Range | None]] = {
    aten.where: lambda of, _, a, b: _union([of(a), of(b)]),
    aten.masked_fill: lambda of, x, _, value: _union([of(x), of(value)]),
    aten.clamp: _clamp,
    aten.clamp_min: _clamp,
    aten.clamp_max: lambda of, x, high: _clamp(of, x, None, high),
    aten.maximum: _clamp,
    aten.minimum: lambda of, x, high: _clamp(of, x, None, high),
    aten.add: _sum,
    aten.sub: lambda of, a, b, alpha=1: _sum(of, a, b, alpha, -1),
    aten.rsub: lambda of, a, b, alpha=1: _sum(of, b, a, alpha, -1),
    aten.neg: lambda of, x: _sum(of, 0, x, 1, -1),
    aten.mul: _product,
    aten.remainder: _remainder,
    aten.floor_divide: _quotient,
    aten.div: lambda of, a, b, rounding_mode=None: _quotient(of, a, b, rounding_mode),
    aten.zeros_like: lambda of, *_: Range(0, 0),
    aten.zeros: lambda of, *_: Range(0, 0),
    aten.new_zeros: lambda of, *_: Range(0, 0),
    aten.full: lambda of, _, value, *__: of(value),
    aten.new_full: lambda of, x, _, value, *__: of(value),
    aten.ones_like: lambda of, *_: Range(1, 1),
}
