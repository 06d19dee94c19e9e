"""Losses that users compute: three steps equal eager PyTorch's, on every target.

The table is in `loss_cases.py`. The fast suite takes each case to one target, the targets in turn.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loss_cases import LOSSES, data, network
from torch import nn
from users import MOMENTUM, assert_as_eager, task

import pockgraph as pg
from pockgraph.errors import CaptureError
from pockgraph.ir.interpreter import interpret
from pockgraph.targets import target_names


def _right(name: str, target: str) -> None:
    torch.manual_seed(0)
    assert_as_eager(task(network(), data(), LOSSES[name]), target)


@pytest.mark.parametrize(("name", "target"), list(zip(LOSSES, itertools.cycle(("onnx", "openvino")))))
def test_a_loss(name: str, target: str) -> None:
    _right(name, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", target_names())
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_on_each_target(name: str, target: str) -> None:
    _right(name, target)


def test_ctc_targets_one_behind_the_other_are_refused_with_the_shape_to_pad_them_to() -> None:
    def loss(m: nn.Module, b: Any) -> torch.Tensor:
        scores = m(b["seq"]).log_softmax(-1).transpose(0, 1)
        return nn.CTCLoss()(scores, b["words"].flatten(), b["length"], torch.full_like(b["spoken"], 3))

    with pytest.raises(CaptureError, match=r"test_field_losses.py:\d+.*Pad them: targets of shape \[4, S\]"):
        pg.build(task(network(), data(), loss), MOMENTUM)


def test_a_negative_variance_is_no_number() -> None:
    def loss(m: nn.Module, b: Any) -> torch.Tensor:
        return F.gaussian_nll_loss(m(b["x"]), b["z"], m(b["other"]) - 10)

    graph = pg.build(task(network(), data(), loss), MOMENTUM)
    assert interpret(graph, graph.task.example)["loss"].isnan()


class Adaptive(nn.Module):
    """Logits by frequency: a small part of the network for the rare classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.adaptive = network(), nn.AdaptiveLogSoftmaxWithLoss(5, 20, [5, 10], div_value=2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.adaptive.log_prob(self.body(x))


def test_an_adaptive_softmax_is_told_the_form_that_compiles_and_that_form_trains(target: str) -> None:
    def clustered(m: Any, b: Any) -> torch.Tensor:
        return m.adaptive(m.body(b["x"]), 4 * b["y"]).loss

    with pytest.raises(CaptureError, match=r"test_field_losses\.py:\d+.*F\.nll_loss\(layer\.log_prob\("):
        pg.build(task(Adaptive(), data(), clustered))
    assert_as_eager(task(Adaptive(), data(), lambda m, b: F.nll_loss(m(b["x"]), 4 * b["y"])), target)
