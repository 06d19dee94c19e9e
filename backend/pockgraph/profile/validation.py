"""What must hold of a profile's numbers, so that a damaged file is refused before it is used."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..cost.clamp_masks import CLAMP_MASK_STEPS
from ..errors import PlanError
from .memory_model import MemoryAmounts
from .operator_cost import WORK_KINDS, Operator

if TYPE_CHECKING:
    from .profile import Profile

_AMOUNTS = (
    "bytes", "size_bytes", "flops", "work", "bounds", "fixed_bytes", "fixed_flops", "fixed_work"
)  # fmt: skip


def check(profile: Profile) -> None:
    """
    Raises:
        PlanError: a number that is none, or names an operator or a tensor that is not there.
    """
    count, tensors = len(profile.operators), len(profile.tensors)
    for i, o in enumerate(profile.operators):
        _check_operator(o, i, count, tensors)
    # They are added up as 64-bit integers.
    _require(sum(o.bytes + o.flops + o.work for o in profile.operators) < 1 << 62, "the operators")
    _require(_indices([profile.loss], count), "the loss")
    for name in ("channel_order", "moves", "first_reader", "roots", "state_bytes"):
        _require(len(getattr(profile, name)) == tensors, name)
    for name in ("other_moves", "path_weights", "other_state", "other_fixed"):
        _require(len(getattr(profile, name)) in (0, tensors), name)
    _require(_indices((*profile.first_reader, *profile.roots), count), "first_reader or roots")
    for i, tensor in enumerate(profile.tensors):
        sizes = (*tensor.shape, tensor.flops, tensor.dx_flops, tensor.saved_bytes, tensor.depth)
        names = (tensor.fqn, tensor.kind, tensor.layer, tensor.block)
        _require(all(isinstance(n, str) for n in names) and _amounts(sizes), f"tensor {i}")
        dim = tensor.channel_dim
        _require(dim is None or _indices([dim], len(tensor.shape)), f"the channels of {tensor.fqn!r}")
        order = profile.channel_order[i]
        _require(
            _indices(order, tensor.channels or 0) and len(set(order)) == len(order) in (0, tensor.channels),
            f"the channel order of {tensor.fqn!r}",
        )
        for moves in (profile.moves[i], *(profile.other_moves[i].values() if profile.other_moves else ())):
            to = [t for operands in moves.values() for t in operands]
            there = _indices(moves, count) and all(type(t) is int and t < count for t in to)
            _require(there, f"the moves of {tensor.fqn!r}")
        for d, read in profile.path_weights[i].items() if profile.path_weights else ():
            for n, on_path in read.items():
                codes = list(profile.moves_along(i, d)[n])
                weights = [j if j >= 0 else -1 - j for j in on_path]
                _require(_indices(weights, tensors), f"the moves of {tensor.fqn!r}")
                for j in (j for j in on_path if j >= 0):
                    codes.remove(-1 - profile.tensors[j].nbytes)
    known = {r.fqn for r in profile.tensors}
    _require(len(known) == tensors and known.issuperset(profile.head), "the names of tensors")
    for name, preset in profile.presets.items():
        _require(known.issuperset(preset) and all(_is_share(v) for v in preset.values()), f"preset {name!r}")
    constants = profile.backward_constants
    _require(all(_amounts([n]) and _indices(readers, count) for n, readers in constants), "the constants")
    states = [*profile.state_bytes, *(pair for by_dim in profile.other_state for pair in by_dim.values())]
    _require(
        _amounts((profile.resident_bytes, profile.scalar_bytes, *(n for pair in states for n in pair)))
        and all(len(pair) == 2 for pair in states),
        "the bytes of state",
    )
    for fixed in (fixed for by_dim in profile.other_fixed for fixed in by_dim.values()):
        triples = fixed.values()
        there = _indices(fixed, count) and all(_amounts(t) and len(t) == 3 for t in triples)
        _require(there, "what stays of an update")
    if profile.time is not None:
        time = (*profile.time.ms_per_unit, profile.time.overhead_ms, profile.time.error_ratio)
        _require(
            len(time) == len(WORK_KINDS) + 2 and all(_is_number(t) for t in time), "the time model"
        )  # fmt: skip
    if profile.memory is not None:
        m = profile.memory
        numbers = (
            *m.bytes_per_unit,
            m.runtime_bytes,
            m.constant_bytes,
            m.forward_bytes,
            m.error_ratio,
            m.points,
        )
        there = len(m.bytes_per_unit) == len(MemoryAmounts._fields) and isinstance(m.target, str)
        _require(there and all(_is_number(n) and n >= 0 for n in numbers), "the memory model")


def _check_operator(o: Operator, i: int, count: int, tensors: int) -> None:
    what = f"operator {i}"
    _require(all(isinstance(n, str) for n in (o.name, o.op, o.layer)), what)
    _require(_amounts(getattr(o, a) for a in _AMOUNTS), what)
    _require(all(type(flag) is bool for flag in (o.forward, o.needed, o.elementwise, o.update)), what)
    before = _indices((o.storage, *o.operands), i + 1) and _indices(o.inputs, i)  # schedule order: no circles
    _require(before and _indices(o.kept_for, count) and _indices(o.reads, tensors), what)
    _require(_indices([o.kind], len(WORK_KINDS)) and _amounts([o.serves]) and o.serves < 1 << tensors, what)
    _require(_indices([o.compared + 1], count + 1) and _indices([o.adds_norm_of + 1], tensors + 1), what)
    _require(type(o.item_bytes) is int and o.item_bytes > 0, what)
    _require(o.compared < 0 or o.bounds in CLAMP_MASK_STEPS, what)


def _amounts(values: Iterable[Any]) -> bool:
    return all(type(v) is int and v >= 0 for v in values)


def _indices(values: Iterable[Any], count: int) -> bool:
    return all(type(v) is int and 0 <= v < count for v in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise PlanError(f"The profile is damaged: {what} has values that cannot be.")
