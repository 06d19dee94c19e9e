"""A task that trains in seconds, for tests: four blobs, told apart by a small convolutional network."""

from __future__ import annotations

import os
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pockgraph.task import Batches, Task

SIDE = 12
PAUSE_VARIABLE = "UI_TASK_PAUSE_S"  # ahead of each batch: a run that is only watched needs no processor


class Net(nn.Module):
    """Three convolutional blocks and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(3))
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def _data(count: int, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    y = np.arange(count) % 4
    x = draw.normal(0, 0.6, (count, 1, SIDE, SIDE)).astype(np.float32)
    for image, label in zip(x, y):
        row, column = 6 * (label // 2), 6 * (label % 2)
        image[0, row : row + 6, column : column + 6] += 0.5 + 0.5 * label
    return {"x": x, "y": y.astype(np.int64)}


def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def accuracy(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return (model(batch["x"]).argmax(1) == batch["y"]).float()


def _paused(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    time.sleep(float(os.environ[PAUSE_VARIABLE]))
    return batch


def task() -> Task:
    torch.manual_seed(0)
    pause = _paused if PAUSE_VARIABLE in os.environ else None
    return Task(
        name="blobs",
        model=Net(),
        loss=loss,
        metric=accuracy,
        train=Batches(_data(160, 0), 8, shuffle=True, transform=pause),
        eval=Batches(_data(64, 1), 8),
        validation=Batches(_data(64, 2), 8),
        fresh=("head.*",),
        reference="ui_task:task",
    )
