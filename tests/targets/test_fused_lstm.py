"""LSTMs of the torch target on a CPU: PyTorch's own kernels, only where they compute what the graph says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import pockgraph as pg
from pockgraph.recurrent.operators import ops
from pockgraph.targets.torch import fused_lstm
from pockgraph.targets.torch import runner as runtime
from pockgraph.train_graph import TrainGraph

LOOPS = (ops.lstm.default, ops.lstm_backward.default)
FEATURES, UNITS, STEPS = 3, 4, 5

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")


class Net(nn.Module):
    """Outputs, last states and memories, each of which goes into the result."""

    def __init__(self, both: bool, bias: bool) -> None:
        super().__init__()
        self.net = nn.LSTM(FEATURES, UNITS, 2, bidirectional=both, batch_first=True, bias=bias)
        self.next = nn.LSTM(FEATURES, UNITS, 2, bidirectional=both, batch_first=True)
        self.out = nn.LazyLinear(2)
        with torch.no_grad():
            self(torch.zeros(1, STEPS, FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.net(x)
        outputs, (h, c) = self.next(x, state)
        return self.out(torch.cat([outputs.mean(1), h[0], c[-1]], 1))


@functools.cache
def build(both: bool, bias: bool = True) -> TrainGraph:
    net = Net(both, bias)
    g = torch.Generator().manual_seed(0)
    data = [{"x": torch.randn(4, STEPS, FEATURES, generator=g), "y": torch.tensor([0, 1, 1, 0])}]
    task = pg.Task(
        "fused", net, lambda m, b: F.cross_entropy(m(b["x"]), b["y"]), lambda m, b: m(b["x"]).sum(1), data,
        data,
    )  # fmt: skip
    return pg.build(task, pg.SGD(lr=0.1, momentum=0.9))


def batch_of(graph: TrainGraph) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in graph.task.train[0].items()}


def trained(
    artifact: pg.Artifact, batch: dict[str, np.ndarray]
) -> tuple[list[float], dict[str, np.ndarray], Any]:
    trainer = artifact.trainer()
    losses = [trainer.step(batch, lr=0.1).loss for _ in range(3)]
    return losses, trainer.state(), trainer.evaluate([batch]).values


def spied(monkeypatch: pytest.MonkeyPatch, change: Callable[[fx.Graph], None] | None = None) -> list[int]:
    """How many loops are left in each graph that is loaded from then on, which `change` may alter before."""
    left: list[int] = []

    def fuse(code: fx.Graph, constants: Any) -> None:
        if change is not None:
            change(code)
        fused_lstm.fuse_lstms(code, constants)
        code.lint()
        left.append(sum(n.target in LOOPS for n in code.nodes))

    monkeypatch.setattr(runtime, "fuse_lstms", fuse)
    return left


PLANS: dict[str, Callable[[TrainGraph], pg.Plan]] = {
    "all": pg.Plan.full,
    "upper_layers": lambda g: pg.Plan.of(g, {r.fqn: 1.0 for r in g.tensors if "_l1" in r.fqn}),
    "columns_of_inputs": lambda g: pg.Plan.of(g, {"net.weight_ih_l0": [0, 2], "next.weight_ih_l1": [1]}),
    "columns_of_states": lambda g: pg.Plan.of(g, {"net.weight_hh_l0": [0, 2], "next.weight_hh_l1": [1]}),
    "biases": lambda g: pg.Plan.of(g, {r.fqn: 1.0 for r in g.tensors if "bias" in r.fqn}),
}


@pytest.mark.parametrize(
    ("plan", "both"), [("all", False), *((p, True) for p in PLANS)], ids=["one_direction", *PLANS]
)
def test_no_loop_is_left_and_steps_are_those_of_the_loops(
    plan: str, both: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = build(both, bias=plan != "columns_of_inputs")
    artifact = pg.compile(graph, PLANS[plan](graph), target="torch", out=tmp_path / "out", parity=False)
    left = spied(monkeypatch)
    fused = trained(artifact, batch_of(graph))
    assert left == [0, 0]
    monkeypatch.setattr(runtime, "fuse_lstms", lambda *_: None)
    loops = trained(artifact, batch_of(graph))
    np.testing.assert_allclose(fused[0], loops[0], rtol=1e-5)
    for fqn, weight in fused[1].items():
        np.testing.assert_allclose(weight, loops[1][fqn], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fused[2], loops[2], rtol=1e-4, atol=1e-6)


def _first(code: fx.Graph, target: Any, at: int = 0) -> fx.Node:
    return [n for n in code.nodes if n.target is target][at]


def _other_slope(code: fx.Graph) -> None:
    node = _first(code, torch.ops.aten.rsub.Scalar)
    node.args = (node.args[0], 2)


def _other_order(code: fx.Graph) -> None:
    four = [n for n in code.nodes if n.target is torch.ops.aten.cat.default and len(n.args[0]) == 4]
    node = four[0]
    parts: Any = node.args[0]
    node.args = ([parts[1], parts[0], *parts[2:]], node.args[1])


def _other_weight(code: fx.Graph) -> None:
    node, forward = _first(code, LOOPS[1]), _first(code, LOOPS[0])
    node.args = (*node.args[:5], forward.args[3], *node.args[6:])


def _other_direction(code: fx.Graph) -> None:
    node = _first(code, LOOPS[1])
    node.args = (*node.args[:7], not node.args[7])


def _gates_read(code: fx.Graph) -> None:
    loop = _first(code, LOOPS[0])
    gate = next(u for u in loop.users if u.args[1] == 2)
    output = code.output_node()
    with code.inserting_before(output):
        more = code.call_function(torch.ops.aten.sum.default, (gate,))
    results: Any = output.args[0]
    output.args = ((*results[:-1], more),)


CHANGES = (_other_slope, _other_order, _other_weight, _other_direction, _gates_read)


@pytest.fixture(scope="module")
def one_direction(tmp_path_factory: pytest.TempPathFactory) -> pg.Artifact:
    graph, out = build(both=False), tmp_path_factory.mktemp("one_direction") / "out"
    return pg.compile(graph, target="torch", out=out, parity=False)


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_graph_that_computes_something_else_stays_a_loop(
    change: Callable[[fx.Graph], None], one_direction: pg.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = spied(monkeypatch, change)
    one_direction.trainer()
    assert left == [2]


def test_a_step_in_bfloat16_stays_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = spied(monkeypatch)
    graph = build(both=True)
    options = {"precision": "bf16"}
    artifact = pg.compile(graph, target="torch", out=tmp_path / "out", options=options)
    assert min(left) > 0
    exact = pg.compile(graph, target="torch", out=tmp_path / "f32", parity=False)
    loss = trained(exact, batch_of(graph))[0][0]
    assert artifact.trainer().step(batch_of(graph), lr=0.1).loss == pytest.approx(loss, rel=2e-2)
