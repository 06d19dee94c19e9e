"""A small project of a user's own, and what a command of theirs gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

PROJECT = '''
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import pockgraph as pg


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(F.relu(self.conv2(F.relu(self.conv1(x)))).mean((2, 3)))


def samples(n, seed):
    """Three textures: stripes along one axis, along the other, and none."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    x = rng.normal(size=(n, 1, 8, 8)).astype(np.float32) * 0.3
    stripes = np.resize([1.0, -1.0], 8).astype(np.float32)
    x[y == 0] += stripes[:, None]
    x[y == 1] += stripes[None, :]
    return {"x": x, "y": y.astype(np.int64)}


def task(rows=8):
    torch.manual_seed(0)
    return pg.Task(
        name="textures",
        model=Net(),
        loss=lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
        metric=lambda model, batch: (model(batch["x"]).argmax(1) == batch["y"]).float(),
        train=pg.Batches(samples(96, 0), rows),
        eval=pg.Batches(samples(48, 1), rows),
        validation=pg.Batches(samples(48, 2), rows),
        fresh=("head.*",),
    )


ready = task()
number = 3


def nothing():
    return None


def needs(argument):
    return argument
'''


class Result(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Result]
