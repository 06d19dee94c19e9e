"""A small classifier of drawings, and an artefact of it: what runtimes in other languages are compared on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pockgraph as pg

BATCH, CLASSES, SIDE = 4, 5, 8


class Net(nn.Module):
    """`[N, 1, 8, 8]` to logits; with dropout, so that steps draw numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(12 * 16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.norm(self.first(x)))))
        return self.head(self.drop(x.flatten(1)))


def drawings(batches: int = 6) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {
            "x": rng.normal(size=(BATCH, 1, SIDE, SIDE)).astype(np.float32),
            "y": rng.integers(0, CLASSES, BATCH),
        }
        for _ in range(batches)
    ]


def compiled(
    out: Path, optimizer: object, target: str = "onnx", predicts: bool = True, dropout: bool = True
) -> Path:
    """An artefact that trains everything, of one weight a half."""
    torch.manual_seed(0)
    data = [{n: torch.from_numpy(a) for n, a in b.items()} for b in drawings()]
    task = pg.Task(
        name="drawings",
        model=Net(),
        loss=lambda model, b: F.cross_entropy(model(b["x"]), b["y"]),
        metric=lambda model, b: (model(b["x"]).argmax(1) == b["y"]).float(),
        predict=(lambda model, b: model(b["x"]).softmax(1)) if predicts else None,
        train=data,
        eval=data,
        dropout=dropout,
    )
    graph = pg.build(task, optimizer)
    choice = dict.fromkeys(pg.Plan.full(graph).tensors, 1.0) | {"second.weight": 0.5}
    pg.compile(graph, pg.Plan.of(graph, choice), target=target, out=out)
    return out
