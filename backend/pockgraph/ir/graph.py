"""Slot, Graph, Builder: the one representation every room works on.

A `Graph` is a functional `torch.fx.Graph` of core ATen operators, and the loops of
`recurrent/operators.py`, with a *named* calling convention: each placeholder and each output is
described by a `Slot`, so no caller counts positions. There are no attributes and no side effects:
parameters, buffers and constants are inputs too, and their initial values travel in `Graph.values`.

Node metadata that every pass keeps:

- `val`: a meta-device tensor (or a tuple of them) with the node's shape and dtype,
- `phase`: `"forward"`, `"backward"` or `"update"`,
- `layer`: the dotted module path the node comes from (empty for the loss itself),
- `source`: `file:line` of the user's code, when known.

Where gradients are clipped by their global norm, pruning marks a tensor's part of the squared norm with
`norm_of` and the sum that takes it in with `adds_norm_of`, both its FQN; only profiling reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from ..errors import PockError, suggest
from .slot_names import Role as Role
from .slot_names import SlotNames

aten = torch.ops.aten


@dataclass(frozen=True)
class Slot(SlotNames):
    """One graph input or output.

    Attributes:
        role: what it is.
        fqn: the tensor it belongs to (parameter or buffer FQN), or the batch key.
        shape, dtype: of the value that is passed; dtype as in `"float32"`.
        key: the name of an optimizer state (`"momentum_buffer"`), or of a constant.
        trained: PARAM only. True: it changes every step and is held as state. False: a constant.
        changes: BUFFER only. True: the step gives it a new value, and it is held as state.
        dim, indices: a trained part of a tensor: the channels `indices` along `dim`. Then `shape`
            is the part's, and a second, constant slot with the same `fqn` holds the whole tensor.
    """

    role: Role
    fqn: str
    shape: tuple[int, ...]
    dtype: str
    key: str = ""
    trained: bool = False
    changes: bool = False
    dim: int | None = None
    indices: tuple[int, ...] | None = None

    @property
    def nbytes(self) -> int:
        return tensor_bytes(self.shape, getattr(torch, self.dtype))


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def tensor_bytes(shape: tuple[int, ...] | torch.Size, dtype: torch.dtype) -> int:
    count = 1
    for s in shape:
        count *= int(s)
    return count * dtype.itemsize


def value_bytes(value: Any) -> int:
    """Bytes of a `val`: one tensor, or the sum over a tuple (None counts nothing)."""
    if isinstance(value, torch.Tensor):
        return tensor_bytes(value.shape, value.dtype)
    return sum(value_bytes(v) for v in value) if isinstance(value, tuple) else 0


@dataclass(frozen=True, eq=False)
class Graph:
    """A functional ATen graph with named inputs and outputs.

    Attributes:
        fx: the graph. Placeholders stand in the order of `inputs`; the output node returns a flat
            tuple in the order of `outputs`.
        inputs, outputs: one slot each.
        values: slot name -> initial value of each PARAM, BUFFER, CONST and OPT_STATE input.
    """

    fx: fx.Graph
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    values: Mapping[str, torch.Tensor]

    @property
    def placeholders(self) -> dict[str, fx.Node]:
        """Slot name -> placeholder."""
        nodes = [n for n in self.fx.nodes if n.op == "placeholder"]
        return {slot.name: node for slot, node in zip(self.inputs, nodes, strict=True)}

    @property
    def results(self) -> dict[str, fx.Node]:
        """Output slot name -> the node that makes it."""
        return {slot.name: node for slot, node in zip(self.outputs, output_args(self.fx), strict=True)}

    def input(self, name: str) -> Slot:
        """The slot of an input.

        Raises:
            PockError: there is none of that name (with suggestions).
        """
        for slot in self.inputs:
            if slot.name == name:
                return slot
        raise PockError(f"The graph has no input {name!r}.{suggest(name, [s.name for s in self.inputs])}")

    def nodes(self, phase: str | None = None) -> Iterator[fx.Node]:
        """Operator nodes in schedule order, of one phase or of all."""
        for node in self.fx.nodes:
            if node.op == "call_function" and phase in (None, node.meta["phase"]):
                yield node

    @property
    def state_slots(self) -> tuple[Slot, ...]:
        return tuple(s for s in self.inputs if s.is_state)

    def code(self) -> str:
        """The graph as readable Python."""
        return self.fx.python_code("self").src

    def validate(self) -> None:
        """Assert the invariants above; cheap, run after every pass.

        Raises:
            AssertionError: naming the node or slot that breaks one.
        """
        self.fx.lint()
        placeholders = [n for n in self.fx.nodes if n.op == "placeholder"]
        assert len(placeholders) == len(self.inputs), "placeholders and input slots differ in number"
        for node, slot in zip(placeholders, self.inputs):
            assert tuple(node.meta["val"].shape) == slot.shape, f"{slot.name}: {node.meta['val'].shape}"
        for node, slot in zip(output_args(self.fx), self.outputs, strict=True):
            assert tuple(node.meta["val"].shape) == slot.shape, f"{slot.name}: {node.meta['val'].shape}"
        names = [s.name for s in self.inputs]
        assert len(set(names)) == len(names), "two inputs share a name"
        for slot in self.inputs:
            if slot.role in (Role.PARAM, Role.BUFFER, Role.CONST, Role.OPT_STATE):
                assert tuple(self.values[slot.name].shape) == slot.shape, slot.name
        for node in self.nodes():
            assert "val" in node.meta, f"{node} has no value metadata"
            assert node.meta.get("phase"), f"{node} has no phase"


def output_args(graph: fx.Graph) -> tuple[fx.Node, ...]:
    return tuple(graph.output_node().args[0])  # pyright: ignore


def bound_args(node: fx.Node) -> list[Any]:
    """The arguments of an operator call in the order of its schema, with its defaults."""
    bound = []
    for i, argument in enumerate(node.target._schema.arguments):  # pyright: ignore
        if i < len(node.args):
            bound.append(node.args[i])
        else:
            bound.append(node.kwargs.get(argument.name, argument.default_value))
    return bound


def rebuilt(graph: Graph, new_fx: fx.Graph, **changes: Any) -> Any:
    """`graph` with another fx graph, dropping inputs that nothing uses any more.

    BATCH and LR inputs stay: the caller of a step passes them whatever the plan is.
    """
    inputs = changes.pop("inputs", graph.inputs)
    values = dict(changes.pop("values", graph.values))
    placeholders = [n for n in new_fx.nodes if n.op == "placeholder"]
    kept = []
    for node, slot in zip(placeholders, inputs, strict=True):
        if node.users or slot.changes or slot.role in (Role.BATCH, Role.LR):
            kept.append(slot)
        else:
            new_fx.erase_node(node)
    names = {s.name for s in kept}
    values = {k: v for k, v in values.items() if k in names}
    return replace(graph, fx=new_fx, inputs=tuple(kept), values=values, **changes)


def meta_like(value: Any) -> Any:
    """A meta-device twin of a tensor (or tuple of tensors): shape, dtype, contiguous strides."""
    if isinstance(value, torch.Tensor):
        return torch.empty(tuple(int(s) for s in value.shape), dtype=value.dtype, device="meta")
    if isinstance(value, tuple | list):
        return tuple(meta_like(v) for v in value)
    return value


def add_placeholder(graph: fx.Graph, name: str) -> fx.Node:
    """A new placeholder for whatever a module or a batch entry is called.

    fx makes a unique identifier of it for the node, but writes the target into code as it is.
    """
    node = graph.placeholder(name)
    node.target = node.name
    return node


def add_constant(graph: fx.Graph, after: fx.Node, name: str, value: torch.Tensor) -> tuple[fx.Node, Slot]:
    """A new CONST input after the placeholder `after`; its slot's key is the node's unique name."""
    with graph.inserting_after(after):
        node = add_placeholder(graph, name)
    node.meta["val"] = meta_like(value)
    return node, Slot(Role.CONST, "", tuple(value.shape), dtype_name(value.dtype), key=node.name)


class Builder:
    """Adds nodes to an fx graph with their metadata computed, at a movable insertion point."""

    def __init__(self, graph: fx.Graph, phase: str, layer: str = "", source: str = "") -> None:
        self.graph, self.phase, self.layer, self.source = graph, phase, layer, source

    def call(self, op: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A node that calls `op`; `val` is what `op` gives on meta tensors."""
        node = self.graph.call_function(op, args, kwargs)
        as_val = lambda n: n.meta["val"]  # noqa: E731
        meta_args, meta_kwargs = fx.map_arg((args, kwargs), as_val)
        node.meta = {
            "val": meta_like(op(*meta_args, **meta_kwargs)),
            "phase": self.phase,
            "layer": self.layer,
            "source": self.source,
        }
        return node

    def after(self, node: fx.Node) -> Any:
        """Context manager: insert right after `node` (after all placeholders if it is one)."""
        if node.op == "placeholder":
            node = [n for n in self.graph.nodes if n.op == "placeholder"][-1]
        return self.graph.inserting_after(node)

    def before(self, node: fx.Node) -> Any:
        return self.graph.inserting_before(node)
