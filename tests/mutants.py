"""Training graphs that are wrong on purpose: one rule broken at one place, by a seed.

A mutant whose steps do not differ from the right ones beyond rounding is no fault: `is_equivalent` decides
that from float64 runs of both graphs, by code that the judge in `pockgraph.parity` does not share.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from oracle import feed, next_state
from torch import Tensor, fx

from pockgraph.ir.graph import Graph, Role, aten, output_args
from pockgraph.task.batch import Batch

Site = tuple[str, Callable[[], None]]
WITH_CONSTANTS = (
    aten.mul.Scalar, aten.add.Scalar, aten.pow.Tensor_Scalar, aten.native_layer_norm.default,
    aten.native_group_norm.default, aten._native_batch_norm_legit.default,
    aten._native_batch_norm_legit_functional.default,
)  # fmt: skip


def mutated(
    graph: Any, seed: int, phases: Sequence[str] = ("forward", "backward", "update")
) -> tuple[Any, str]:
    """A copy of `graph` with one mistake, and what it is."""
    draw = random.Random(seed)
    new = copied(graph)
    kinds: dict[str, list[Site]] = {}
    for node in list(new.nodes()):
        if node.meta["phase"] in phases:
            for kind, what, apply in _sites(new, node, draw):
                kinds.setdefault(kind, []).append((what, apply))
    if "update" in phases:
        for kind, what, apply in _output_sites(new, draw):
            kinds.setdefault(kind, []).append((what, apply))
    kind = draw.choice(sorted(kinds))
    what, apply = draw.choice(kinds[kind])
    apply()
    new.fx.eliminate_dead_code()
    return new, f"{kind}: {what}"


def copied(graph: Any) -> Any:
    """The same graph over nodes of its own."""
    new = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    new.output(new.graph_copy(graph.fx, made))
    return replace(graph, fx=new)


def _floating(x: Any) -> bool:
    return isinstance(x, fx.Node) and isinstance(x.meta["val"], Tensor) and x.meta["val"].is_floating_point()


def _call(graph: Graph, like: fx.Node, op: Any, *args: Any) -> fx.Node:
    node = graph.fx.call_function(op, args)
    value = op(*fx.map_arg(args, lambda n: n.meta["val"]))
    node.meta = {k: v for k, v in like.meta.items() if k != "gradient_of"} | {"val": value}
    return node


def _chain(graph: Graph, node: fx.Node, build: Callable[[Callable[..., fx.Node]], fx.Node]) -> None:
    last = [node]

    def call(op: Any, *args: Any) -> fx.Node:
        with graph.fx.inserting_after(last[0]):
            last[0] = _call(graph, node, op, *args)
        return last[0]

    users = list(node.users)
    new = build(call)
    if "gradient_of" in node.meta:
        new.meta["gradient_of"] = node.meta.pop("gradient_of")
    for user in users:
        user.replace_input_with(node, new)


def _sites(graph: Graph, node: fx.Node, draw: random.Random) -> list[tuple[str, str, Callable[[], None]]]:
    """Every mistake that can be made at a node: (kind, words, what makes it)."""
    found: list[tuple[str, str, Callable[[], None]]] = []
    val, name = node.meta["val"], node.target.__name__ if callable(node.target) else str(node.target)
    phase = node.meta["phase"]
    where = f"{node.name} ({name}, {phase})"

    def add(kind: str, apply: Callable[[], None]) -> None:
        found.append((kind, where, apply))

    if _floating(node) and val.numel() > 1 and phase != "forward":
        add(
            "a thousandth too long",
            lambda: _chain(graph, node, lambda call: call(aten.mul.Scalar, node, 1.001)),
        )
    if "gradient_of" in node.meta and val.ndim and val.shape[0] > 2:
        at = draw.randrange(val.shape[0] - 1)

        def flip() -> None:
            def build(call: Callable[..., fx.Node]) -> fx.Node:
                low = call(aten.slice.Tensor, node, 0, 0, at)
                mid = call(aten.neg.default, call(aten.slice.Tensor, node, 0, at, at + 1))
                high = call(aten.slice.Tensor, node, 0, at + 1, val.shape[0])
                return call(aten.cat.default, [low, mid, high], 0)

            _chain(graph, node, build)

        add("sign of a channel", flip)
    if "gradient_of" in node.meta and val.ndim == 2 and val.shape[0] == val.shape[1]:
        add(
            "transposed gradient",
            lambda: _chain(graph, node, lambda call: call(aten.permute.default, node, [1, 0])),
        )
    args = node.args
    pair = len(args) >= 2 and _floating(args[0]) and _floating(args[1])
    if node.target in (aten.add.Tensor, aten.sub.Tensor) and pair and args[0].meta["val"].shape == val.shape:

        def drop() -> None:
            users = list(node.users)
            for user in users:
                user.replace_input_with(node, args[0])
            if "gradient_of" in node.meta:
                args[0].meta["gradient_of"] = node.meta["gradient_of"]

        add("dropped term", drop)
    if (
        node.target in (aten.sub.Tensor, aten.div.Tensor)
        and pair
        and args[0].meta["val"].shape == args[1].meta["val"].shape
    ):
        add("swapped operands", lambda: setattr(node, "args", (args[1], args[0], *args[2:])))
    if node.target in (aten.mul.Tensor,) and pair and args[1].meta["val"].ndim == 0 and phase == "update":
        add("dropped factor", lambda: _chain(graph, node, lambda call: call(aten.mul.Scalar, args[0], 1.0)))
    masks = (
        aten.masked_fill.Scalar,
        aten.where.self,
        aten.threshold_backward.default,
        aten.hardtanh_backward.default,
    )
    if node.target in masks:
        index = 0 if node.target is aten.where.self else 1
        mask = args[index]
        others = [
            n for n in graph.fx.nodes
            if n.op == "call_function" and n is not mask and n < node and isinstance(n.meta["val"], Tensor)
            and n.meta["val"].shape == mask.meta["val"].shape
            and n.meta["val"].dtype == mask.meta["val"].dtype
        ] if isinstance(mask, fx.Node) else []  # fmt: skip
        if others:
            other = draw.choice(others)
            add("another's mask", lambda: setattr(node, "args", (*args[:index], other, *args[index + 1 :])))
    numbers = [i for i, a in enumerate(args) if isinstance(a, float) and a != 0.0]
    for i in numbers:
        if node.target in WITH_CONSTANTS:
            big = args[i] * (100.0 if args[i] < 1e-4 else 1.01)
            add(
                "wrong constant", lambda i=i, big=big: setattr(node, "args", (*args[:i], big, *args[i + 1 :]))
            )
            if phase == "update" and node.target is aten.mul.Scalar:
                add("dropped term of the update",
                    lambda i=i: setattr(node, "args", (*args[:i], 0.0, *args[i + 1 :])))  # fmt: skip
    if node.target is aten.convolution.default and args[0].meta["val"].shape[-1] > 1:
        x, width = args[0], args[0].meta["val"].shape[-1]

        def shift() -> None:
            with graph.fx.inserting_before(node):
                a = _call(graph, node, aten.slice.Tensor, x, x.meta["val"].ndim - 1, 1, width)
                b = _call(graph, node, aten.slice.Tensor, x, x.meta["val"].ndim - 1, 0, 1)
                node.args = (_call(graph, node, aten.cat.default, [a, b], x.meta["val"].ndim - 1), *args[1:])

        add("off by one", shift)
    if node.target in (aten.sum.dim_IntList, aten.mean.dim, aten.sum.default, aten.mean.default):
        add("wrong reduction", lambda: _chain(graph, node, lambda call: call(aten.mul.Scalar, node, 2.0)))
    return found


def _output_sites(graph: Graph, draw: random.Random) -> list[tuple[str, str, Callable[[], None]]]:
    """What can go wrong with the results of a step."""
    results = list(output_args(graph.fx))
    found: list[tuple[str, str, Callable[[], None]]] = []

    def put(changes: Mapping[int, fx.Node]) -> None:
        made = [changes.get(i, n) for i, n in enumerate(results)]
        graph.fx.output_node().args = (tuple(made),)

    role = {Role.NEW_PARAM: Role.PARAM, Role.NEW_BUFFER: Role.BUFFER, Role.NEW_OPT_STATE: Role.OPT_STATE}
    inputs = graph.placeholders
    for i, slot in enumerate(graph.outputs):
        if slot.role not in role:
            continue
        name = replace(slot, role=role[slot.role], trained=slot.role is Role.NEW_PARAM).name
        if name in inputs:
            found.append(("not updated", slot.name, lambda i=i, name=name: put({i: inputs[name]})))
        same = [j for j, s in enumerate(graph.outputs) if j != i and s.role in role and s.shape == slot.shape
                and s.dtype == slot.dtype]  # fmt: skip
        if same:
            j = draw.choice(same)
            found.append(("swapped results", f"{slot.name} and {graph.outputs[j].name}",
                          lambda i=i, j=j: put({i: results[j], j: results[i]})))  # fmt: skip
    return found


# ---------------------------------------------------------------- which mutants are faults


def is_equivalent(right: Graph, wrong: Graph, batches: Sequence[Batch], lr: float) -> bool:
    """Whether float32 could not tell: after each of some steps, every state and loss in float64 differs from
    the right one by no more than float32 itself does, or by a millionth of what the step moved it."""
    exact, off, single = (
        _steps(_in_double(right), batches, lr, torch.float64),
        _steps(_in_double(wrong), batches, lr, torch.float64),
        _steps(right, batches, lr, torch.float32),
    )
    before = {name: value.double() for name, value in right.values.items()}
    for a, b, c in zip(exact, off, single):
        for name, value in a.items():
            error = float((b[name].double() - value.double()).norm())
            rounding = float((c[name].double() - value.double()).norm()) + 1e-7 * float(value.double().norm())
            moved = (
                float((value.double() - before[name]).norm())
                if name in before
                else float(value.double().norm())
            )
            if not error <= 3 * rounding + 1e-6 * moved:
                return False
    return True


def _steps(graph: Graph, batches: Sequence[Batch], lr: float, dtype: torch.dtype) -> list[dict[str, Tensor]]:
    def cast(value: Tensor) -> Tensor:
        return value.to(dtype) if value.is_floating_point() else value

    values = {name: cast(v) for name, v in graph.values.items()}
    found = []
    for batch in batches:
        outputs = feed(graph, values, {k: cast(v) for k, v in batch.items()}, lr)
        new = next_state(graph, outputs)
        values |= new
        found.append({"loss": outputs[0], **new})
    return found


def _in_double(graph: Any) -> Any:
    new = copied(graph)
    for node in new.fx.nodes:
        swap = lambda x: torch.float64 if x is torch.float32 else x  # noqa: E731
        node.args = tuple(map(swap, node.args))
        node.kwargs = {k: swap(v) for k, v in node.kwargs.items()}
    return new
