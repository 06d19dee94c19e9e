"""Convolutional networks: every kind of plan, on every target, equals eager PyTorch."""

from __future__ import annotations

from typing import ClassVar

import pytest
from models import register
from oracle import covering, sampled
from targets.test_target_contract import TargetContract

from zoo.convolutional import MODELS

register(MODELS)


class InTurn(TargetContract):
    """Each model goes to one target, if it is small; the slow suite takes every one to both."""

    test_any_plan_equals_eager_pytorch: ClassVar[None] = None  # pyright: ignore


# Built of what others here are built of, and larger.
LARGER = ("mobilenet_v2", "resnet50", "efficientnet_lite0")


class TestTorch(InTurn):
    target = "torch"
    cases = tuple(c for c in sampled(MODELS)[::2] if c.model not in LARGER)


class TestOpenVINO(InTurn):
    target = "openvino"
    cases = tuple(c for c in sampled(MODELS, start=3)[1::2] if c.model not in LARGER)


@pytest.mark.slow
class TestEveryPlanOnTorch(TargetContract):
    target = "torch"
    cases = covering(MODELS)


@pytest.mark.slow
class TestEveryPlanOnOpenVINO(TargetContract):
    target = "openvino"
    cases = covering(MODELS)
