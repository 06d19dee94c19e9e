"""Tasks whose training step is not evaluation mode: batch statistics, dropout, buffers that change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import models
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pockgraph import Task
from pockgraph.parity.seeded_dropout import seeded_dropout
from pockgraph.prng import step_keys
from pockgraph.task.batch import Batch

# ---------------------------------------------------------------- batch norm


class BatchNorms(nn.Module):
    """Batch norms in two and one dimensions: affine, plain, of average statistics, without statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, 2, 1, groups=6, bias=False)
        self.norm2 = nn.BatchNorm2d(6, affine=False, momentum=None)
        self.conv2 = nn.Conv2d(6, 8, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(8, momentum=0.3)
        self.conv3 = nn.Conv1d(8, 6, 3, bias=False)
        self.norm4 = nn.BatchNorm1d(6, momentum=1.0)
        self.hidden = nn.Linear(6, 5)
        self.norm5 = nn.BatchNorm1d(5, track_running_stats=False)
        self.classifier = nn.Linear(5, models.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.depthwise(x)))
        x = self.norm3(self.conv2(x)).relu().flatten(2)
        x = self.norm4(self.conv3(x)).tanh().mean(2)
        # Without running statistics a batch of one value a channel would be none: keep some distance.
        return self.classifier(self.norm5(self.hidden(x)))


class Shared(nn.Module):
    """One batch norm used twice in a step: its statistics move twice."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.hidden = nn.Linear(12, 8), nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.leave = nn.Linear(8, models.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(self.enter(x)))
        return self.leave(torch.tanh(self.norm(self.hidden(x))))


class Centred(nn.Module):
    """Subtracts a moving average of its input that every training step updates, and counts the steps."""

    average: Tensor
    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = models.MLP()
        self.register_buffer("average", torch.zeros(12))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
            self.average.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return self.layers(x - self.average)


# ---------------------------------------------------------------- dropout


class Dropping(nn.Module):
    """Dropout of activations, of attention's weights, of whole channels, and a norm in between."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 2, 1)
        self.norm = nn.BatchNorm2d(width)
        self.channels = nn.Dropout2d(0.3)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.drop = nn.Dropout(0.2)
        self.encoder = nn.TransformerEncoderLayer(width, 2, 12, dropout=0.1, batch_first=True)
        self.classifier = nn.Linear(width, models.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.channels(F.relu(self.norm(self.conv(x)))).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        p = 0.25 if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
        x = x + self.drop(self.out(mixed.transpose(1, 2).flatten(2)))
        return self.classifier(self.encoder(x).mean(1))


@contextmanager
def same_masks(task: Task, seed: int, step: int) -> Iterator[None]:
    """Eager PyTorch in here drops what the compiled step drops."""
    if not task.dropout:
        yield
        return
    with seeded_dropout(step_keys(seed, step)):
        yield


# ---------------------------------------------------------------- tasks


def _task(name: str, net: nn.Module, batches: list[Batch], **policies: Any) -> Task:
    plain = models.task_of(name, net, batches, lambda net, b: net(b["x"]))
    return Task(name, plain.model, plain.loss, plain.metric, batches, batches, **policies)


def batch_norms() -> Task:
    return _task("batch_norms", BatchNorms(), models.images(), batch_norm="batch")


def batch_resnet() -> Task:
    return _task("batch_resnet", models.ResNet(), models.images(), batch_norm="batch")


def shared_norm() -> Task:
    return _task("shared_norm", Shared(), models.vectors(), batch_norm="batch")


def centred() -> Task:
    return _task("centred", Centred(), models.vectors(), dropout=True)


def dropping() -> Task:
    return _task("dropping", Dropping(), models.images(), dropout=True)


def both() -> Task:
    return _task("both", Dropping(), models.images(), dropout=True, batch_norm="batch")


BATCH_NORM = {f.__name__: f for f in (batch_norms, batch_resnet, shared_norm)}
DROPOUT = {f.__name__: f for f in (dropping, both, centred)}
models.register(BATCH_NORM | DROPOUT)
