"""Complex Python numbers, which no file of a graph holds -> constants of two real ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from ..ir.graph import Slot, add_constant, aten, meta_like

_FILLED = {aten.full.default, aten.full_like.default, aten.new_full.default, aten.scalar_tensor.default}


def complex_constant(
    graph: fx.Graph, before: fx.Node, name: str, value: Tensor, val: Any
) -> tuple[fx.Node, Slot, Tensor]:
    """A complex tensor, read before a node: the node that makes it, its input, and what that holds.

    Args:
        val: the shape and dtype of `value`.
    """
    real = torch.view_as_real(value.resolve_conj())
    last = [n for n in graph.nodes if n.op == "placeholder"][-1]
    placeholder, slot = add_constant(graph, last, name, real)
    with graph.inserting_before(before):
        read = graph.call_function(aten.view_as_complex.default, (placeholder,))
    read.meta = {**before.meta, "val": val}
    return read, slot, real


def lift_complex_numbers(graph: fx.Graph, slots: list[Slot], values: dict[str, Tensor]) -> None:
    """`x * 2j`, `full(size, 1j)` → the same with a tensor; what takes a number and no tensor stays."""
    for node in list(graph.nodes):
        if node.op != "call_function" or not any(isinstance(a, complex) for a in node.args):
            continue
        wide = any(
            n.meta["val"].dtype in (torch.complex128, torch.float64) for n in (node, *node.all_input_nodes)
        )
        dtype = torch.complex128 if wide else torch.complex64
        overload = node.target if node.target in _FILLED else _with_tensors(node)
        if overload is None:
            continue
        at = next(i for i, a in enumerate(node.args) if isinstance(a, complex))
        number = torch.tensor(node.args[at], dtype=dtype)
        read, slot, real = complex_constant(graph, node, "number", number, meta_like(number))
        slots.append(slot)
        values[slot.name] = real
        if node.target in _FILLED:
            with graph.inserting_before(node):
                filled = graph.call_function(aten.expand.default, (read, list(node.meta["val"].shape)))
            filled.meta = dict(node.meta)
            node.replace_all_uses_with(filled)
            graph.erase_node(node)
        else:
            node.target = overload
            node.update_arg(at, read)


def _with_tensors(node: fx.Node) -> Any:
    """The overload of a node's operator that takes a tensor for its one complex number."""
    operator: Any = node.target
    names = [a.name for a in operator._schema.arguments]
    tensors = {n for n, a in zip(names, node.args) if isinstance(a, fx.Node | complex)}
    packet = operator.overloadpacket
    for overload in (operator, *(getattr(packet, name) for name in packet.overloads())):
        given = {a.name: str(a.type) for a in overload._schema.arguments}
        same = list(given)[: len(node.args)] == names[: len(node.args)] and set(node.kwargs) <= set(given)
        if same and all(given[n] in ("Tensor", "Optional[Tensor]") for n in tensors):
            return overload
    return None
