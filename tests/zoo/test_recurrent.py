"""Recurrent networks: every kind of plan, on every target, equals eager PyTorch."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from models import randomised, register
from oracle import covering, sampled
from targets.test_target_contract import TargetContract

import pockgraph as pg
from pockgraph.capture import trace_loss
from pockgraph.recurrent.layers import gru_reset_first
from pockgraph.recurrent.operators import BACKWARD, FORWARD
from zoo.recurrent import MODELS, WIDTH, LastState

aten = torch.ops.aten
register(MODELS)


class OneEach(TargetContract):
    test_any_plan_equals_eager_pytorch: ClassVar[None] = None  # pyright: ignore


class TestTorch(OneEach):
    target = "torch"
    cases = sampled(MODELS)


class TestOpenVINO(OneEach):
    target = "openvino"
    cases = sampled(MODELS, start=3)


@pytest.mark.slow
class TestEveryPlanOnTorch(TargetContract):
    target = "torch"
    cases = covering(MODELS)


@pytest.mark.slow
class TestEveryPlanOnOpenVINO(TargetContract):
    target = "openvino"
    cases = covering(MODELS)


# ---------------------------------------------------------------- how they are captured


@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN])
def test_each_layer_and_direction_is_one_loop(kind: type[torch.nn.RNNBase]) -> None:
    """However many steps there are: no operator of a device's own, none that changes its operands."""
    graphs = [trace_loss(_task(LastState(kind, 2, both=True), steps)).graph for steps in (2, 9)]
    assert len({len(list(g.nodes())) for g in graphs}) == 1
    for node in graphs[0].nodes():
        schema = getattr(node.target, "_schema", None)
        assert schema is None or not schema.is_mutable, node.target
    for phase, loops in (("forward", FORWARD), ("backward", BACKWARD)):
        assert len([n for n in graphs[0].nodes(phase) if n.target in loops]) == 4
    products = [n for n in graphs[0].nodes("forward") if n.target in (aten.mm.default, aten.addmm.default)]
    assert len(products) == 4 + 1  # for each layer and direction one for all inputs; and the classifier


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [3, 1, 5]])
def test_a_gru_that_resets_first_equals_its_definition(reverse: bool, lengths: list[int] | None) -> None:
    """States and gradients of the loop beside autograd's of one operator a step."""
    g = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(*size, generator=g, dtype=torch.float64, requires_grad=True)
        for size in ((5, 3, 2), (3, 4), (12, 2), (12, 4), (12,))
    ]
    there = torch.ones(5, 3, 1, dtype=torch.bool)
    if lengths is not None:
        there = (torch.arange(5)[:, None] < torch.tensor(lengths))[..., None]

    def by_definition() -> torch.Tensor:
        x, h, w, r, b = inputs
        states: list[torch.Tensor] = [h] * 5
        for t in reversed(range(5)) if reverse else range(5):
            x_r, x_z, x_n = (x[t] @ w.t() + b).chunk(3, 1)
            r_r, r_z, r_n = r.chunk(3)
            reset, z = torch.sigmoid(x_r + h @ r_r.t()), torch.sigmoid(x_z + h @ r_z.t())
            n = torch.tanh(x_n + (reset * h) @ r_n.t())
            h = states[t] = torch.where(there[t], (1 - z) * n + z * h, h)
        return torch.stack(states)

    weight = torch.randn(5, 3, 4, generator=g, dtype=torch.float64)
    results = []
    for states in (gru_reset_first(*inputs, reverse, None if lengths is None else there), by_definition()):
        results.append((states, *torch.autograd.grad((states * weight).sum(), inputs)))
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs)


def _task(net: torch.nn.Module, steps: int) -> pg.Task:
    batches = [{"x": torch.randn(3, steps, WIDTH), "y": torch.tensor([0, 1, 2])}]
    return pg.Task(
        "recurrent", randomised(net), lambda net, b: F.cross_entropy(net(b["x"]), b["y"]),
        lambda net, b: net(b["x"]).sum(1), batches, batches,
    )  # fmt: skip
