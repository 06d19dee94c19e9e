"""A small real task for studies: bars and blobs, a network of three convolutions with batch norm."""

from __future__ import annotations

import functools
import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pockgraph.optimizer import SGD
from pockgraph.task import Batches, Task
from pockgraph.task.batch import Batch

CLASSES, SIDE, BATCH = 4, 8, 8
OPTIMIZER = SGD(lr=0.1, momentum=0.9)


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(8)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
                for _ in range(2)
            )
            self.head = nn.Linear(8, CLASSES)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:  # x [N, 1, SIDE, SIDE]
        x = torch.relu(self.norm1(self.stem(x)))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def loss(net: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(net(batch["x"]), batch["y"])


def accuracy(net: nn.Module, batch: Batch) -> Tensor:
    return (net(batch["x"]).argmax(1) == batch["y"]).float()


@functools.cache
def samples(count: int = 160, seed: int = 0) -> dict[str, Tensor]:
    """Horizontal bars, vertical bars, blobs and rings, with noise."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % CLASSES
    x = 0.3 * torch.randn(count, 1, SIDE, SIDE, generator=g)
    at = torch.randint(1, SIDE - 2, (count, 2), generator=g)
    for i, (r, c) in enumerate(at.tolist()):
        if y[i] == 0:
            x[i, 0, r] += 2
        elif y[i] == 1:
            x[i, 0, :, c] += 2
        else:
            x[i, 0, r - 1 : r + 2, c - 1 : c + 2] += 2
            if y[i] == 3:
                x[i, 0, r, c] -= 3
    return {"x": x, "y": y}


def make_task(name: str = "shapes", classes: int = CLASSES, seed: int = 0) -> Task:
    net = Net(seed)
    if classes != CLASSES:
        net.head = nn.Linear(8, classes)
    data = samples()
    parts = [
        {k: v[span] for k, v in data.items()} for span in (slice(0, 96), slice(96, 128), slice(128, 160))
    ]
    train, validation, test = (Batches(p, BATCH) for p in parts)
    return Task(name, net, loss, accuracy, train.shuffled(0), test, validation, ("head.*",))


make_shapes = functools.cache(make_task)

# A short analysis: 2 learning rates x 2 plans, 2 seeds x (head alone, 3 weights x 2 ratios, 2 biases).
QUICK = {"steps": 4, "seeds": (0, 1), "ratios": (1.0, 0.5), "lr": (0.02, 0.1), "target": "torch"}
QUICK_COUNT = 4 * 2 + 2 * (1 + 2 * 2 + 1 + 3)


def stop_after(count: int, error: BaseException):
    """A progress callback that raises when `count` measurements were finished since it was made."""
    finished = itertools.count(1)

    def progress(p) -> None:
        if p.last is not None and next(finished) == count:
            raise error

    return progress
