"""Losses: their gradients, and three steps with them, equal eager PyTorch's on every target."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from models import MLP, randomised, register, zoo
from oracle import OPTIMIZERS, Case, assert_equal_gradients, built
from targets.test_target_contract import TargetContract

import pockgraph as pg
from pockgraph.errors import NonFiniteLoss
from zoo.losses import IGNORED, MODELS

register(MODELS)
# A loss is the same whatever is trained under it: all tensors, so that nothing of its backward is left out.
CASES = tuple(
    Case(model, plan, list(OPTIMIZERS)[i % len(OPTIMIZERS)])
    for i, model in enumerate(MODELS)
    for plan in ("full",)
)


class LossContract(TargetContract):
    cases = CASES
    test_any_plan_equals_eager_pytorch: ClassVar[None] = None  # pyright: ignore


class TestTorch(LossContract):
    target = "torch"


class TestOpenVINO(LossContract):
    target = "openvino"


@pytest.mark.parametrize("name", MODELS)
def test_gradients_equal_autograd(name: str) -> None:
    assert_equal_gradients(built(name).gradients, zoo(name))


def test_a_teacher_is_not_trained() -> None:
    graph = built("distillation")
    assert {r.fqn.split(".")[0] for r in graph.tensors} == {"student"}
    assert {fqn.split(".")[0] for fqn in graph.unused} == {"teacher"}


@pytest.mark.parametrize("target", ["torch", "openvino"])
def test_a_batch_of_ignored_samples_moves_nothing(target: str, tmp_path) -> None:
    """Their mean is 0/0 in PyTorch too, and the gradient of it zero."""
    batches = [{"x": torch.randn(3, 12), "y": torch.full((3,), IGNORED)}]
    task = pg.Task(
        "ignored", randomised(MLP()),
        lambda net, b: F.cross_entropy(net(b["x"]), b["y"], ignore_index=IGNORED),
        lambda net, b: net(b["x"]).sum(1), batches, batches,
    )  # fmt: skip
    graph = pg.build(task, pg.SGD(lr=1.0))
    trainer = pg.compile(graph, target=target, out=tmp_path / "out", parity=False).trainer()
    with pytest.raises(NonFiniteLoss):
        trainer.step({k: v.numpy() for k, v in batches[0].items()}, lr=1.0)
    for fqn, value in trainer.state().items():
        assert torch.equal(torch.from_numpy(value), graph.initial(fqn)), fqn
