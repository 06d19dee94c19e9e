"""Which state tells that a step went well: while it is finite, all of the next state is.

A step is undone where its result holds NaN or infinite values, so every next value is read once more.
Some need not be: in `p' = p - lr m'` no value of m' that is not finite leaves p' finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from ..ir.graph import Graph, Role, aten
from ..ir.slot_names import EMA

# Operators that give NaN or an infinite value wherever one of these operands is not finite.
_PASS_ON = {
    aten.add.Tensor: (0, 1), aten.add.Scalar: (0,), aten.sub.Tensor: (0, 1), aten.sub.Scalar: (0,),
    aten.mul.Tensor: (0, 1), aten.mul.Scalar: (0,), aten.neg.default: (0,), aten.div.Tensor: (0,),
    aten.div.Scalar: (0,), aten.reshape.default: (0,),
}  # fmt: skip


def checked_state(graph: Graph) -> tuple[str, ...]:
    """Names of the state slots whose next values need to be looked at; the others' follow from these.

    A slot that is not finite to begin with (a running minimum that starts at infinity) tells nothing.
    """
    slot_of = {s.next_name: s for s in graph.state_slots if bool(graph.values[s.name].isfinite().all())}
    new = {s.name: n for s, n in zip(graph.outputs, graph.results.values()) if s.name in slot_of}
    new = {name: node for name, node in new.items() if node.meta["val"].is_floating_point()}
    told: set[str] = set()
    for slot in graph.outputs:
        if slot.role is Role.NEW_PARAM and slot.name in new:
            told |= _told_by(slot.name, new)
    # A weight's average is made from the weight: while both old ones are finite, so is it.
    averages = {s.name for s in graph.outputs if s.role is Role.NEW_OPT_STATE and s.key == EMA}
    return tuple(slot_of[name].name for name in new if name not in told | averages)


def _told_by(param: str, new: Mapping[str, fx.Node]) -> set[str]:
    """The states that are finite while the next value of `param` is.

    In the steps between two updates it is the old value. That tells of the states that keep theirs in the
    same steps, and of no other: a sum of gradients grows in each.
    """
    node = new[param]
    chosen = _chosen(node)
    shown = _shown_by(chosen or node)
    others = {name: other for name, other in new.items() if name != param}
    if chosen is None:
        return {name for name, other in others.items() if shown & {other, _chosen(other)}}
    return {n for n, other in others.items() if _chosen(other) in shown and other.args[0] is node.args[0]}


def _chosen(node: fx.Node) -> fx.Node | None:
    """`new` of `where(applies, new, old)`, with which the steps between two updates keep the old value."""
    return node.args[1] if node.target is aten.where.self else None  # pyright: ignore


def _shown_by(node: fx.Node) -> set[fx.Node]:
    """The nodes that cannot hold a value that is not finite while `node` holds none."""
    found: set[fx.Node] = set()
    pending: list[Any] = [node]
    while pending:
        current = pending.pop()
        if isinstance(current, fx.Node) and current not in found:  # a number is no node, and is finite
            found.add(current)
            target: Any = current.target
            pending += [current.args[i] for i in _PASS_ON.get(target, ())]
    return found
