"""Tiny tasks, which show that the whole way works and nothing else."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pockgraph.task import Batches, Task

from .images import accuracy, loss
from .networks import drawn

CLASSES = 3


class TinyImages(nn.Module):
    """`[N, 3, 8, 8]` -> `[N, CLASSES]`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU()) for _ in range(2)))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


class TinyLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.softmax(self.query(x) @ self.key(x).mT, -1) @ self.value(x)
        return self.norm(x + y)


class TinyTexts(nn.Module):
    """`[N, T]` -> `[N, CLASSES]`."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.layers = nn.Sequential(*(TinyLayer(8) for _ in range(2)))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.words(x)).mean(1))


def images() -> Task:
    x = np.random.RandomState(0).randn(48, 3, 8, 8).astype(np.float32)
    return _task("tiny-images", drawn(0, TinyImages), x)


def texts() -> Task:
    return _task("tiny-texts", drawn(0, TinyTexts), np.random.RandomState(0).randint(0, 11, (48, 5)))


def _task(name: str, net: nn.Module, x: np.ndarray) -> Task:
    data = Batches({"x": x, "y": np.arange(len(x)) % CLASSES}, 8)
    return Task(name, net, loss, accuracy, data, data, data, fresh=("head.weight", "head.bias"))
