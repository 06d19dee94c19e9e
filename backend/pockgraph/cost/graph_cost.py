"""What a graph costs: FLOPs of each node, and which bytes are alive when.

Three memory figures are kept apart everywhere:

- *saved*: activations that cross from the forward into the backward pass,
- *extra*: saved activations and optimizer state, what is kept only because the network trains,
- *modelled peak*: everything alive at the worst moment of the actual schedule, weights included.

The rules of the model are in `liveness.py`. A measured peak is another thing again, see
`measure.py`.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils.flop_counter import flop_registry

from ..ir.graph import Graph, Role, aten, output_args, tensor_bytes
from ..recurrent.operators import WEIGHTS
from ..recurrent.operators import flops as recurrent_flops
from .liveness import Step, liveness

VIEWS = frozenset({
    aten.reshape.default, aten.permute.default, aten.expand.default, aten.unsqueeze.default,
    aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.slice.Tensor, aten.select.int,
    aten.view.default, aten.t.default, aten.transpose.int, aten.detach.default, aten.alias.default,
    aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int,
})  # fmt: skip

REDUCTIONS = (aten.sum.dim_IntList, aten.sum.default, aten.mean.dim, aten.mean.default, aten.amax.default,
              aten.var.correction)  # fmt: skip


def is_elementwise(node: fx.Node) -> bool:
    """Does the operator map each element on its own, so that it may write over an operand?"""
    tags = getattr(node.target, "tags", ())
    return torch.Tag.pointwise in tags or node.target in (
        aten.hardtanh_backward.default, aten.threshold_backward.default, aten.gelu_backward.default,
        aten.masked_fill.Scalar, aten.where.self, aten._to_copy.default, aten.clone.default,
    )  # fmt: skip


def value_bytes(value: Any) -> int:
    """Bytes of a `val`: one tensor, or the sum over a tuple (None counts nothing)."""
    if isinstance(value, torch.Tensor):
        return tensor_bytes(value.shape, value.dtype)
    return sum(value_bytes(v) for v in value) if isinstance(value, tuple) else 0


def storage_of(node: fx.Node) -> fx.Node:
    """The node that owns the memory a view looks at."""
    while node.op == "call_function" and _is_view(node):
        node = node.args[0]  # pyright: ignore
    return node


def _is_view(node: fx.Node) -> bool:
    """Views, and the pieces of an operator that returns several views."""
    return node.target in VIEWS or (node.target is operator.getitem and node.args[0].target in VIEWS)  # pyright: ignore


def node_flops(node: fx.Node) -> int:
    """Floating-point operations of one node.

    A multiply-add counts two, an elementwise result or a reduced element one.
    """
    if node.target in VIEWS or node.target is operator.getitem:
        return 0
    if node.target is aten.convolution_backward.default:
        return _weight_gradient_flops(node)
    if node.target in WEIGHTS:
        return recurrent_flops(node.target, fx.map_arg(node.args, lambda n: n.meta["val"]))
    formula = flop_registry.get(getattr(node.target, "overloadpacket", node.target))
    if formula is None:
        if isinstance(node.meta["val"], tuple) or node.target in REDUCTIONS:
            return max((_elements(a.meta["val"]) for a in node.all_input_nodes), default=0)
        return _elements(node.meta["val"])
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    return int(formula(*args, **kwargs, out_val=node.meta["val"]))


def _weight_gradient_flops(node: fx.Node) -> int:
    dy, x, w = (a.meta["val"].shape for a in node.args[:3])  # pyright: ignore
    spatial = (x if node.args[7] else dy)[2:]
    return 2 * dy[0] * int(torch.tensor(spatial).prod()) * int(torch.tensor(w).prod())


def _elements(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel()
    return max((_elements(v) for v in value), default=0) if isinstance(value, tuple) else 0


@dataclass(frozen=True)
class Timeline:
    """Bytes alive over one run of a graph's schedule.

    Attributes:
        names, phases: node name and phase at each step.
        live_bytes: everything alive while that node runs, resident memory included.
        resident_bytes: inputs, weights, buffers and optimizer state: alive all the time.
        saved_bytes: activations alive at the end of the forward pass.
        state_bytes: optimizer state.
    """

    names: tuple[str, ...]
    phases: tuple[str, ...]
    live_bytes: tuple[int, ...]
    resident_bytes: int
    saved_bytes: int
    state_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The modelled peak."""
        return max(self.live_bytes, default=self.resident_bytes)

    @property
    def peak_at(self) -> str:
        """The node that runs at the peak."""
        return self.names[self.live_bytes.index(self.peak_bytes)] if self.names else ""

    @property
    def extra_bytes(self) -> int:
        return self.saved_bytes + self.state_bytes


def steps_of(graph: Graph) -> tuple[list[fx.Node], list[Step]]:
    """The operator nodes of a graph in schedule order, and what each means for memory."""
    nodes = [n for n in graph.fx.nodes if n.op == "call_function"]
    number = {n: i for i, n in enumerate(nodes)}
    steps = []
    for node in nodes:
        storage = storage_of(node)
        operands = {number[s] for a in node.all_input_nodes if (s := storage_of(a)) in number}
        owns = (
            value_bytes(node.meta["val"])
            if storage is node and isinstance(node.meta["val"], torch.Tensor)
            else 0
        )
        steps.append(
            Step(
                name=node.name,
                # A view of an input owns nothing and keeps nothing alive.
                storage=number.get(storage, number[node]),
                owns_bytes=owns,
                operands=tuple(sorted(operands)),
                elementwise=is_elementwise(node),
                forward=node.meta["phase"] == "forward",
            )
        )
    return nodes, steps


def timeline(graph: Graph) -> Timeline:
    """Liveness over the actual schedule, by the rules of `liveness.py`."""
    nodes, steps = steps_of(graph)
    number = {n: i for i, n in enumerate(nodes)}
    results = zip(output_args(graph.fx), graph.outputs)
    kept = frozenset(number[storage_of(n)] for n, s in results if s.role in (Role.LOSS, Role.METRIC))
    curve = liveness(steps, kept)
    resident = sum(s.nbytes for s in graph.inputs)
    state = sum(s.nbytes for s in graph.inputs if s.role is Role.OPT_STATE)
    return Timeline(
        tuple(s.name for s in steps),
        tuple(n.meta["phase"] for n in nodes),
        tuple(live + resident for live in curve.live_bytes),
        resident,
        curve.saved_bytes,
        state,
    )
