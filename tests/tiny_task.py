"""One small task, and what the runtime's tests train of it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn

from pockgraph.artifact import Artifact
from pockgraph.optimizer import SGD, Adafactor, AdamW, Group, Optimizer
from pockgraph.plan import Plan
from pockgraph.task import Task
from pockgraph.task.batch import Batch
from pockgraph.train_graph import TrainGraph
from pockgraph.train_graph.builder import build

ROWS = 8
SAMPLES = 20
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": SGD(lr=0.05, momentum=0.9),
    "adamw": AdamW(lr=0.01),
    "accumulate": Adafactor(
        lr=0.01, accumulate=3, clip_norm=0.1, ema_decay=0.5, groups=(Group("*.bias", lr_scale=2.0),)
    ),
}
CHOICES: dict[str, dict[str, float | list[int]]] = {
    # conv2.weight is trained in part, along its input channels.
    "sparse": {"conv2.weight": [1, 4, 6], "conv2.bias": 1.0, "head.weight": 1.0, "head.bias": 1.0},
    "head": {"head.weight": 1.0, "head.bias": 1.0},
}


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)
            self.conv2 = nn.Conv2d(8, 6, 1)
            self.head = nn.Linear(6, 4)
            self.norm.running_mean.normal_()  # pyright: ignore
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # x [N, 3, H, W]
        x = torch.relu(self.norm(self.conv1(x)))
        return self.head(torch.relu(self.conv2(x)).mean((2, 3)))


def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def metric(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Continuous, so that every change of a weight shows."""
    return -nn.functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def samples() -> Batch:
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(SAMPLES, 3, 6, 6, generator=generator),
        "y": torch.randint(0, 4, (SAMPLES,), generator=generator),
    }


def batches(count: int) -> list[dict]:
    """`count` numpy batches of ROWS consecutive samples, from the start again at the end."""
    data = samples()
    rows = [(torch.arange(ROWS) + i * ROWS) % SAMPLES for i in range(count)]
    return [{k: v[r].numpy() for k, v in data.items()} for r in rows]


def logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    return model(batch["x"])


def named_logits(model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    """Of a batch without labels, whose entry has another name."""
    found = model(batch["image"])
    return {"logits": found, "label": found.argmax(1)}


def centred(model: nn.Module, batch: Batch) -> torch.Tensor:
    found = model(batch["x"])
    return found - found.mean(0)


# What a task predicts; by default nothing.
PREDICTIONS: dict[str, dict] = {
    "": {},
    "one": {"predict": logits},
    "named": {
        "predict": named_logits, "predict_batch": {"image": torch.randn(2, 3, 6, 6)}, "predict_sizes": (4, 1)
    },
    "centred": {"predict": centred},
}  # fmt: skip


def make_task(seed: int = 0, predict: str = "") -> Task:
    data = [{k: torch.from_numpy(v) for k, v in b.items()} for b in batches(2)]
    return Task("tiny", Net(seed), loss, metric, data, data, **PREDICTIONS[predict])


@functools.cache
def make_graph(optimizer: str = "sgd", seed: int = 0, predict: str = "") -> TrainGraph:
    return build(make_task(seed, predict), OPTIMIZERS[optimizer])


def make_plan(plan: str = "sparse", optimizer: str = "sgd") -> Plan:
    return Plan.of(make_graph(optimizer), CHOICES[plan])


Compile = Callable[..., Artifact]  # (target, plan, optimizer, seed, predict)
