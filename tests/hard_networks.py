"""Networks whose gradients are partly rounding: a judge has to tell that from deviation."""

from __future__ import annotations

from typing import Any

import models
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pockgraph import Task
from pockgraph.task.batch import Batch


class Kinks(nn.Module):
    """A kink of each sort below a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        kinks = (nn.LeakyReLU(), nn.ELU(), nn.ReLU6(), nn.Hardswish(), nn.Hardsigmoid(), nn.MaxPool2d(2))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1), nn.BatchNorm2d(8), kink)
            for i, kink in enumerate(kinks)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean((2, 3)))


class Cosine(nn.Module):
    """Cosine similarity to class centres: the length of features and centres does not matter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Linear(12, 32), nn.LeakyReLU(), nn.Linear(32, 16))
        self.centres = nn.Parameter(torch.randn(5, 16))

    def forward(self, x: Tensor) -> Tensor:
        return 10 * F.linear(F.normalize(self.features(x)), F.normalize(self.centres))


class Normalised(nn.Module):
    """The last layer's output on the unit sphere."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(12, 32), nn.ELU(), nn.LayerNorm(32), nn.Linear(32, 5))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.layers(x), dim=1)


# ---------------------------------------------------------------- tasks


def _task(name: str, net: nn.Module, batches: list[Batch], **policies: Any) -> Task:
    plain = models.task_of(name, net, batches, lambda net, b: net(b["x"]))
    return Task(name, plain.model, plain.loss, plain.metric, batches, batches, **policies)


def kinks() -> Task:
    return _task("kinks", Kinks(), models.images(), batch_norm="batch")


def cosine() -> Task:
    return _task("cosine", Cosine(), models.vectors())


def normalised() -> Task:
    return _task("normalised", Normalised(), models.vectors())


models.register({f.__name__: f for f in (kinks, cosine, normalised)})
