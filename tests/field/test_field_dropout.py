"""Dropout in all its forms, compared with autograd's gradients for the same masks before anything ships."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_field_judge import negated_channel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from users import CLASSES, MOMENTUM, assert_as_eager, batches, task

import pockgraph as pg
from pockgraph.errors import ParityError


class Recurrent(nn.Module):
    """Dropout between the layers of a recurrent network."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(6, 8, num_layers=3, dropout=0.4, batch_first=True)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0].mean(1))


class Attending(nn.Module):
    """Dropout of attention's weights, with and without the weights as a result."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.MultiheadAttention(8, 2, dropout=0.3, batch_first=True)
        self.second = nn.MultiheadAttention(8, 4, dropout=0.2, batch_first=True)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x, x, x, need_weights=True)[0]
        return self.out((x + self.second(x, x, x, need_weights=False)[0]).mean(1))


class Checkpointed(nn.Module):
    """The masks that are drawn again in the backward pass are those of the forward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Dropout(0.5))
        self.second = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Dropout(0.25))
        self.out = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = checkpoint(self.second, x, use_reentrant=self.reentrant)  # pyright: ignore
        return self.out(x)


class Twice(nn.Module):
    """One dropout layer called twice, two masks; and one that drops everything in between."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))
        self.drop, self.everything = nn.Dropout(0.3), nn.Dropout(1.0)
        self.out = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.layers[0](x))
        x = x + self.everything(self.layers[1](x))
        return self.out(self.drop(torch.relu(self.layers[2](x))))


class HandWritten(nn.Module):
    """Noise of one's own, and dropped rows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        if self.training:
            h = h * torch.empty_like(h).bernoulli_(0.7) / 0.7
            h = h * torch.full((len(h), 1), 0.9).bernoulli_(0.9)
        return self.b(F.dropout(h, 0.2, self.training))


def layers(drop: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 16), nn.SELU(), drop, nn.Linear(16, CLASSES))


def convolved(drop: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), drop, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, CLASSES))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "activations": (lambda: layers(nn.Dropout()), (6, 12)),
    "whole channels": (lambda: convolved(nn.Dropout2d(0.4)), (4, 3, 8, 8)),
    "alpha": (lambda: layers(nn.AlphaDropout(0.2)), (6, 12)),
    "alpha of whole channels": (lambda: convolved(nn.FeatureAlphaDropout(0.3)), (4, 3, 8, 8)),
    "in place": (lambda: layers(nn.Dropout(0.3, inplace=True)), (6, 12)),
    "between recurrent layers": (Recurrent, (3, 7, 6)),
    "attention": (Attending, (2, 5, 8)),
    "transformer": (lambda: nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, 0.2, batch_first=True),
                                          nn.Flatten(), nn.Linear(40, CLASSES)), (3, 5, 8)),
    "checkpoint": (lambda: Checkpointed(False), (6, 12)),
    "reentrant checkpoint": (lambda: Checkpointed(True), (6, 12)),
    "twice, and everything": (Twice, (6, 12)),
    "hand-written noise": (HandWritten, (6, 12)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_dropout_trains_as_eager_pytorch_with_its_masks(case: str) -> None:
    make, shape = CASES[case]
    torch.manual_seed(0)
    assert_as_eager(task(make(), batches(*shape), dropout=True), "torch")


def test_gradients_below_dropout_that_are_wrong_in_the_graph_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = pg.build(task(CASES["whole channels"][0](), batches(4, 3, 8, 8), dropout=True), MOMENTUM)
    negated_channel(graph, "0.weight")
    with pytest.raises(ParityError, match=r"gradient of 0\.weight is off[\s\S]*Another target does not help"):
        pg.compile(graph, target="torch", out=tmp_path / "o")


def test_half_is_dropped_beside_a_batch_norm_that_learns_its_statistics(target: str) -> None:
    """0.5 is what `bernoulli_` drops unless told otherwise: autograd leaves it out."""
    net = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, CLASSES))
    assert_as_eager(task(net, batches(8, 12), batch_norm="batch", dropout=True), target)
