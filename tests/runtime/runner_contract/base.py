"""What the contract is written with: artefacts of a target, their trainers, and eager PyTorch's steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from tiny_task import CHOICES, OPTIMIZERS, Compile, Net, batches, loss

from pockgraph.runtime import Trainer


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def eager(plan: str, optimizer: str, steps: int) -> tuple[list[float], Net]:
    """The oracle: autograd and torch.optim, with the gradients of frozen channels set to zero."""
    net = Net()
    choice = CHOICES[plan]
    named = dict(net.named_parameters())
    options = {k: v for k, v in OPTIMIZERS[optimizer].to_dict().items() if k != "name"}
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
    optim = kind([named[n] for n in choice], **options)
    losses = []
    initial = {n: p.detach().clone() for n, p in named.items()}
    for batch in batches(steps):
        value = loss(net, {k: torch.from_numpy(v) for k, v in batch.items()})
        optim.zero_grad()
        value.backward()
        optim.step()
        losses.append(value.item())
        with torch.no_grad():
            for name, channels in choice.items():
                if isinstance(channels, list):  # weight decay reached the frozen channels, too
                    frozen = [c for c in range(named[name].shape[1]) if c not in channels]
                    named[name][:, frozen] = initial[name][:, frozen]
    return losses, net


class RunnerTests:
    """The cases of a target; a subclass names it."""

    target: ClassVar[str]

    @pytest.fixture
    def folder(self, copied: Callable[..., Path]) -> Path:
        return copied(self.target)

    @pytest.fixture
    def trainer(self, compiled: Compile) -> Trainer:
        return self.load(compiled(self.target).path)

    def load(self, folder: Path) -> Trainer:
        return Trainer.load(folder, threads=1)
