"""(gradient graph, plan) -> a really smaller training graph.

Before → after, for `{"conv.weight": channels [0, 2]}`:

    loss, d_conv1, d_bn, d_conv, …      →   loss, conv.weight[:, [0, 2]] updated, its momentum

- a frozen tensor's gradient is no output any more, so dead-code elimination takes its dW, and
  everything below the earliest trained tensor
- a partly trained tensor is two inputs: the whole weight, constant, and the trained channels, state;
  the forward pass joins them, the gradient is computed for those channels only (`channel_slicing.py`)
- updates, and the optimizer's state, exist only for what is trained, each right after its gradient (after
  the last one where gradients are clipped together)
- buffers that the forward pass changes (running statistics) get their new values whatever is trained
- what is left is made smaller by two passes, `NarrowOutputMasks` and `KeepClampMasks`
"""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import replace

import numpy as np
import torch
from torch import fx

from ..ir.graph import Builder, Graph, Role, Slot, add_placeholder, aten, rebuilt
from ..ir.reachability import served_outputs
from ..ir.slot_names import EMA
from ..optimizer import Optimizer, State
from ..optimizer.updates import Updates, scalar_state, tensor_state
from ..passes import run
from ..passes.optimize.keep_clamp_masks import KeepClampMasks
from ..passes.optimize.narrow_output_masks import NarrowOutputMasks
from ..plan import Plan, Trained
from .channel_slicing import Slicer


class _Editor:
    """A copy of a graph to which inputs can be added."""

    def __init__(self, graph: Graph) -> None:
        self.fx = fx.Graph()
        self.copied: dict[fx.Node, fx.Node] = {}
        self.fx.graph_copy(graph.fx, self.copied)
        self.slots = list(graph.inputs)
        self.values = dict(graph.values)
        self.input = {name: self.copied[node] for name, node in graph.placeholders.items()}
        self.result = {name: self.copied[node] for name, node in graph.results.items()}
        self._last = list(self.input.values())[-1]

    def add_input(self, slot: Slot, value: torch.Tensor | None) -> fx.Node:
        with self.fx.inserting_after(self._last):
            node = add_placeholder(self.fx, slot.name)
        node.meta["val"] = torch.empty(slot.shape, dtype=getattr(torch, slot.dtype), device="meta")
        self._last = self.input[slot.name] = node
        self.slots.append(slot)
        if value is not None:
            self.values[slot.name] = value
        return node

    def train_whole(self, fqn: str) -> fx.Node:
        """Turn a constant parameter into state."""
        i = next(i for i, s in enumerate(self.slots) if s.role is Role.PARAM and s.fqn == fqn)
        old, new = self.slots[i], replace(self.slots[i], trained=True)
        self.slots[i] = new
        self.values[new.name] = self.values.pop(old.name)
        self.input[new.name] = self.input.pop(old.name)
        return self.input[new.name]

    def train_part(self, fqn: str, dim: int, channels: tuple[int, ...]) -> tuple[fx.Node, fx.Node, fx.Node]:
        """Split a parameter into a constant and trained channels; returns (whole, part, indices)."""
        base = self.input[f"param:{fqn}"]
        index = torch.tensor(channels, dtype=torch.int64)
        value = self.values[f"param:{fqn}"].index_select(dim, index)
        slot = next(s for s in self.slots if s.name == f"param:{fqn}")
        users = list(base.users)
        where = self.add_input(Slot(Role.CONST, fqn, (len(channels),), "int64", key="channels"), index)
        part = self.add_input(
            replace(slot, trained=True, shape=tuple(value.shape), dim=dim, indices=channels), value
        )
        order = {node: i for i, node in enumerate(self.fx.nodes)}
        first = min((u for u in users if u.op == "call_function"), key=order.__getitem__)
        builder = Builder(self.fx, "forward", first.meta["layer"], first.meta["source"])
        with builder.before(first):
            whole = builder.call(aten.index_copy.default, base, dim, where, part)
        for user in users:
            user.replace_input_with(base, whole)
        return whole, part, where

    def read_averages(self) -> None:
        """Turn trained tensors into their averages."""
        for i, slot in enumerate(self.slots):
            if slot.trained:
                average = replace(slot, role=Role.OPT_STATE, key=EMA, trained=False)
                self.slots[i] = average
                self.values[average.name] = self.values.pop(slot.name)
                self.input[average.name] = self.input.pop(slot.name)


def specialise(graph: Graph, plan: Plan, averaged: bool = False) -> Graph:
    """A forward graph (the metric's, a prediction's) that reads the plan's trained tensors as state.

    Args:
        averaged: read their average over training instead, the optimizer's state `ema`.
    """
    edit = _Editor(graph)
    used = {s.fqn for s in graph.inputs if s.role is Role.PARAM and edit.input[s.name].users}
    for fqn, trained in plan.tensors.items():
        if fqn in used:
            _train(edit, fqn, trained)
    if averaged:
        edit.read_averages()
    edit.fx.output(tuple(edit.result.values()))
    edit.fx.eliminate_dead_code()
    return rebuilt(graph, edit.fx, inputs=tuple(edit.slots), values=edit.values)


def _train(edit: _Editor, fqn: str, trained: Trained) -> tuple[fx.Node, fx.Node, fx.Node] | None:
    if trained.dim is None or trained.channels is None:
        edit.train_whole(fqn)
        return None
    return edit.train_part(fqn, trained.dim, trained.channels)


def prune(gradients: Graph, optimizer: Optimizer, plan: Plan) -> Graph:
    """The training graph of `plan`: loss, and the next value of all that is trained.

    `profile/plan_cost.py` predicts what this makes without making it.

    Args:
        gradients: loss and one GRAD output per trainable tensor, canonical.
        optimizer: whose update is added.
        plan: must fit the model (see `Plan.check_fits`).
    """
    return run(assemble(gradients, optimizer, plan), (NarrowOutputMasks(), KeepClampMasks()), "plan")


def assemble(gradients: Graph, optimizer: Optimizer, plan: Plan) -> Graph:
    """`prune` without its passes, which depend on what was left out: one graph for all plans."""
    edit = _Editor(gradients)
    order = {fqn: i for i, fqn in enumerate(s.fqn for s in gradients.outputs)}
    trained = dict(sorted(plan.tensors.items(), key=lambda kv: order[kv[0]]))
    split = {fqn: parts for fqn, t in trained.items() if (parts := _train(edit, fqn, t))}
    keys = {(whole, trained[fqn].dim, where): part for fqn, (whole, part, where) in split.items()}
    slicer = Slicer(edit.fx, _exclusive(gradients, edit, trained), keys)  # pyright: ignore
    grads: dict[str, fx.Node] = {}
    for fqn, t in trained.items():
        grad = edit.result[f"grad:{fqn}"]
        grads[fqn] = slicer.select(grad, t.dim, split[fqn][2]) if fqn in split else grad  # pyright: ignore
        grads[fqn].meta["gradient_of"] = (*grads[fqn].meta.get("gradient_of", ()), fqn)

    readers = {fqn: split[fqn][0] if fqn in split else edit.input[f"trained:{fqn}"] for fqn in trained}
    outputs, results = _add_updates(edit, optimizer, grads, readers)
    kept = [s for s in gradients.outputs if s.role in (Role.LOSS, Role.NEW_BUFFER)]
    edit.fx.output((*(edit.result[s.name] for s in kept), *results))
    edit.fx.eliminate_dead_code()
    outputs = (*kept, *outputs)
    return rebuilt(gradients, edit.fx, inputs=tuple(edit.slots), outputs=outputs, values=edit.values)


def _exclusive(gradients: Graph, edit: _Editor, trained: Container[str]) -> set[fx.Node]:
    """Nodes of the copy that serve the gradient of one trained tensor and nothing else that is kept."""
    bits = sum(1 << i for i, s in enumerate(gradients.outputs) if s.fqn in trained and s.role is Role.GRAD)
    return {
        edit.copied[n]
        for n, need in served_outputs(gradients).items()
        if n in edit.copied and (need & bits).bit_count() == 1
    }


def _zeros(slot: Slot) -> torch.Tensor:
    """As `torch.zeros`, but the system gives memory only where something is written: a graph that trains all
    of a large network has as many zeros as weights, and most plans drop them."""
    dtype, count = getattr(torch, slot.dtype), math.prod(slot.shape)
    flat = torch.from_numpy(np.zeros(max(count, 1) * dtype.itemsize, np.uint8))
    return flat.view(dtype)[:count].view(slot.shape)


def _add_updates(
    edit: _Editor, optimizer: Optimizer, grads: dict[str, fx.Node], whole: dict[str, fx.Node]
) -> tuple[list[Slot], list[fx.Node]]:
    lr = edit.add_input(Slot(Role.LR, "", (), "float32"), None)
    slots = {s.fqn: s for s in edit.slots if s.trained}
    states: dict[str, State] = {fqn: {} for fqn in grads}
    for fqn in grads:
        for key, shape in tensor_state(optimizer, slots[fqn].shape).items():
            slot = Slot(Role.OPT_STATE, fqn, shape, slots[fqn].dtype, key=key)
            first_value = edit.values[slots[fqn].name] if key == EMA else _zeros(slot)
            states[fqn][key] = edit.add_input(slot, first_value)
    scalars: State = {}
    if grads:
        for key, initial in scalar_state(optimizer).items():
            scalars[key] = edit.add_input(
                Slot(Role.OPT_STATE, "", (), "float32", key=key), torch.tensor(initial)
            )

    outputs: list[Slot] = []
    results: list[fx.Node] = []

    def emit(slot: Slot, role: Role, node: fx.Node) -> None:
        outputs.append(replace(slot, role=role, trained=False))
        results.append(node)

    by_name = {s.name: s for s in edit.slots}
    updates = Updates(optimizer, lr, scalars)
    first = next(n for n in edit.fx.nodes if n.op == "call_function")
    builder = Builder(edit.fx, "update")
    with builder.before(first):
        for key, node in updates.begin(builder).items():
            emit(by_name[f"opt_state:{key}"], Role.NEW_OPT_STATE, node)

    order = {node: i for i, node in enumerate(edit.fx.nodes)}
    builders = {fqn: Builder(edit.fx, "update", layer=fqn.rpartition(".")[0]) for fqn in grads}
    ready = {}
    if optimizer.clip_norm is not None and grads:
        # The factor of all gradients needs all of them, so every update stands at the graph's end.
        squares = []
        for fqn, grad in grads.items():
            with builders[fqn].before(grad.next):
                ready[fqn] = updates.gradient(builders[fqn], grad, states[fqn])
                squares.append(updates.square(builders[fqn], fqn, ready[fqn]))
        updates.clip(builder, squares)
    for fqn, grad in grads.items():
        p, build = edit.input[f"trained:{fqn}"], builders[fqn]
        if ready:
            new, new_state = updates.update(build, fqn, p, ready[fqn], states[fqn])
        else:
            # After the last reader of the old value, so that the update may be done in place.
            last_reader = max([grad, *(u for u in whole[fqn].users if u in order)], key=order.__getitem__)
            with build.before(last_reader.next):
                total = updates.gradient(build, grad, states[fqn])
                new, new_state = updates.update(build, fqn, p, total, states[fqn])
        emit(slots[fqn], Role.NEW_PARAM, new)
        for key, node in new_state.items():
            emit(by_name[f"opt_state:{fqn}:{key}"], Role.NEW_OPT_STATE, node)
    return outputs, results
