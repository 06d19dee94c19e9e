"""Recurrent networks: every kind of plan, on every target, equals eager PyTorch."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from models import TOKENS, randomised, register
from oracle import covering, sampled
from targets.test_target_contract import TargetContract

import pockgraph as pg
from pockgraph.capture import trace_loss
from zoo.recurrent import MODELS, WIDTH, LastState

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
def test_layers_become_steps_without_side_effects(kind: type[torch.nn.RNNBase]) -> None:
    """No operator of a device's own, none that changes its operands."""
    graph = trace_loss(_task(LastState(kind, 2, both=True))).graph
    for node in graph.nodes():
        schema = getattr(node.target, "_schema", None)
        assert schema is None or not schema.is_mutable, node.target
        assert "rnn" not in str(node.target)
        assert "lstm" not in str(node.target)
    products = [n for n in graph.nodes("forward") if n.target is torch.ops.aten.mm.default]
    products += [n for n in graph.nodes("forward") if n.target is torch.ops.aten.addmm.default]
    # For each layer and direction: one for all inputs, one for each step's state; and the classifier.
    assert len(products) == 4 * (1 + TOKENS) + 1


def _task(net: torch.nn.Module) -> pg.Task:
    batches = [{"x": torch.randn(3, TOKENS, WIDTH), "y": torch.tensor([0, 1, 2])}]
    return pg.Task(
        "recurrent", randomised(net), lambda net, b: F.cross_entropy(net(b["x"]), b["y"]),
        lambda net, b: net(b["x"]).sum(1), batches, batches,
    )  # fmt: skip
