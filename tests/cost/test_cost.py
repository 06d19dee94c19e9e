"""Costs: FLOPs and bytes against figures worked out by hand, torch's own counter and real memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from models import ZOO, zoo
from oracle import PLANS, built
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

import pockgraph as pg
from pockgraph.cost.flops import node_flops
from pockgraph.ir.graph import Graph, Role, output_args, value_bytes
from pockgraph.ir.operator_kinds import VIEWS, is_elementwise, storage_of
from pockgraph.task.batch import as_named
from pockgraph.train_graph import TrainGraph

aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.convolution.default,
    aten.convolution_backward.default,
}  # fmt: skip


def product_flops(graph: Graph) -> int:
    return sum(node_flops(n) for n in graph.nodes() if n.target in PRODUCTS)


# ---------------------------------------------------------------- FLOPs


@pytest.mark.parametrize("name", ["unet", "mlp", "twice", "transformer", "bert", "tied"])
def test_flops_of_products_are_torchs_count(name: str) -> None:
    """Full training, where autograd computes what the whole graph computes. (torch's count of a grouped
    convolution's gradient is wrong, so those are counted by hand below.)"""
    task = zoo(name)
    net = copy.deepcopy(task.model).requires_grad_(True)
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        task.loss(net, as_named(next(iter(task.train)))).backward()
    assert product_flops(built(name).gradients) == counter.get_total_flops()


def test_flops_of_a_linear_layer_by_hand() -> None:
    graph = built("mlp")
    n, i, o = 4, 12, 8
    row = graph.tensor("layers.0.weight")
    assert row.flops == 2 * n * i * o + 2 * i * o  # dW, and an update of two operations an element
    phases = graph.prune(pg.Plan.of(graph, {"layers.4.weight": 1.0})).phase_flops()
    assert phases["backward"] >= 2 * n * 8 * 4
    assert phases["update"] == 2 * 8 * 4


@pytest.mark.parametrize(
    ("fqn", "macs"),
    [
        ("blocks.1.depthwise.0.weight", 4 * 2 * 2 * 8 * 9),
        ("blocks.1.expand.0.weight", 4 * 4 * 4 * 8 * 4),
        ("stem.0.weight", 4 * 4 * 4 * 4 * 3 * 9),
    ],
)
def test_a_convolution_and_its_two_gradients_cost_the_same(fqn: str, macs: int) -> None:
    """Batch x output positions x weights, whether it is strided, grouped or neither."""
    graph = built("mobilenet").gradients
    layer = fqn.rpartition(".")[0]
    nodes = [n for n in graph.nodes() if n.target in PRODUCTS and n.meta["layer"] == layer]
    assert len(nodes) == (2 if fqn.startswith("stem") else 3)
    assert [node_flops(n) for n in nodes] == [2 * macs] * len(nodes)


def test_views_are_free_and_elementwise_operators_cost_an_operation_each() -> None:
    for node in built("transformer").nodes():
        if node.target in VIEWS:
            assert node_flops(node) == 0
        elif node.target in (aten.add.Tensor, aten.mul.Tensor, aten.gelu_backward.default):
            assert node_flops(node) == node.meta["val"].numel()


@pytest.mark.parametrize("name", ZOO)
def test_phases_add_up(name: str) -> None:
    graph = built(name)
    assert sum(graph.phase_flops().values()) == graph.flops


# ---------------------------------------------------------------- bytes, by hand


def test_memory_of_a_head_by_hand() -> None:
    """Trap 6: saved, extra and peak are three figures, and each is what its name says.

    Training `layers.4` of the MLP with momentum: dW needs its input `[4, 8]`, the loss its
    log-probabilities `[4, 4]` and a scalar.
    """
    graph = built("mlp", "momentum")
    timeline = graph.prune(pg.Plan.head(graph)).timeline
    weights = 8 * 12 + 8 + 8 * 8 + 8 + 4 * 8 + 4
    state = 4 * 8 + 4
    batch_bytes = 4 * (4 * 12) + 8 * 4
    loss, total_weight = 4, 4
    assert timeline.saved_bytes == 4 * (4 * 8 + 4 * 4) + loss + total_weight
    assert timeline.state_bytes == 4 * state
    assert timeline.extra_bytes == timeline.saved_bytes + timeline.state_bytes
    assert timeline.resident_bytes == 4 * (weights + state) + batch_bytes + 4  # lr
    assert timeline.peak_bytes >= timeline.resident_bytes + timeline.saved_bytes
    assert timeline.peak_bytes == max(timeline.live_bytes)


@pytest.mark.parametrize("plan", ["full", "head", "half"])
@pytest.mark.parametrize("name", ["mobilenet", "transformer"])
def test_extra_is_less_than_peak(name: str, plan: str) -> None:
    graph = built(name, "adamw")
    small = graph.prune(PLANS[plan](graph))
    weights = sum(s.nbytes for s in small.inputs if s.role is Role.PARAM)
    assert small.extra_bytes + weights <= small.peak_bytes


# ---------------------------------------------------------------- bytes, against real tensors


class Weighed(fx.Interpreter):
    """Runs a graph with real tensors, freeing each after its last use, and weighs what is alive."""

    def __init__(self, graph: TrainGraph) -> None:
        super().__init__(nn.Module(), graph=graph.fx)
        self._results = output_args(graph.fx)
        self._last_forward = list(graph.nodes("forward"))[-1]
        self.saved_bytes = 0
        self._previous: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        if self._previous is self._last_forward:
            self.saved_bytes = self.alive()
        self._previous = n
        return super().run_node(n)

    def alive(self) -> int:
        """Bytes of the memory that values look at, inputs and new state left out."""
        inputs = {
            v.untyped_storage().data_ptr()
            for n, v in self.env.items()
            if n.op == "placeholder" and isinstance(v, torch.Tensor)
        }
        sizes: dict[int, int] = {}
        for node, value in self.env.items():
            if node in self._results and node.meta["phase"] == "update":
                continue
            for tensor in value if isinstance(value, tuple | list) else (value,):
                if isinstance(tensor, torch.Tensor):
                    sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return sum(size for pointer, size in sizes.items() if pointer not in inputs)


@pytest.mark.parametrize("plan", ["full", "biases", "preset", "half"])
@pytest.mark.parametrize("name", ZOO)
def test_saved_bytes_are_what_real_tensors_hold(name: str, plan: str) -> None:
    graph = built(name)
    small = graph.prune(PLANS[plan](graph))
    batch = as_named(next(iter(zoo(name).train)))
    inputs = [
        batch[s.fqn] if s.role is Role.BATCH else small.values.get(s.name, torch.tensor(0.1))
        for s in small.inputs
    ]
    weighed = Weighed(small)
    with torch.no_grad():
        weighed.run(*inputs)
    assert weighed.saved_bytes == small.timeline.saved_bytes


@pytest.mark.parametrize("plan", ["full", "biases", "half"])
@pytest.mark.parametrize("name", ["mobilenet", "unet", "mlp", "transformer", "tied"])
def test_bytes_alive_at_each_step_are_those_made_by_then_and_read_from_then_on(name: str, plan: str) -> None:
    """Alive at a step: made by then and read from then on. Recomputed for each step from nothing."""
    graph = built(name, "adamw")
    small = graph.prune(PLANS[plan](graph))
    nodes, curve = list(small.nodes()), small.timeline.live_bytes
    order = {n: i for i, n in enumerate(nodes)}
    readers: dict[fx.Node, set[int]] = {}
    for node in nodes:
        readers.setdefault(storage_of(node), set()).add(order[node])
        for operand in node.all_input_nodes:
            readers.setdefault(storage_of(operand), set()).add(order[node])
    loss = storage_of(output_args(small.fx)[0])
    readers[loss].add(len(nodes))
    sizes = {n: value_bytes(n.meta["val"]) for n in nodes if isinstance(n.meta["val"], torch.Tensor)}
    for i, node in enumerate(nodes):
        alive = {n for n in readers if n in order and order[n] <= i <= max(readers[n])}
        total = small.timeline.resident_bytes + sum(sizes.get(n, 0) for n in alive)
        own = sizes.get(node, 0)
        dying = [
            s for a in node.all_input_nodes
            if (s := storage_of(a)) in order and max(readers[s]) == i and sizes.get(s) == own
        ]  # fmt: skip
        overwrites = storage_of(node) is node and is_elementwise(node) and bool(dying)
        assert curve[i] == total - (own if overwrites else 0), node
