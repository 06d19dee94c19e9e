"""The update of a plain PyTorch training loop, by `torch.optim`: written for the tests alone.

Nothing of it is from `pockgraph.parity.eager_optimizer`, with which `compile` checks itself, so that a
mistake there is seen here.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

import pockgraph as pg
from pockgraph.optimizer import Optimizer


class _Lion(torch.optim.Optimizer):
    """arXiv 2302.06675, algorithm 2, a line each; torch.optim has none."""

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                momentum = self.state[p].get("m", torch.zeros_like(p))
                direction = torch.sign(beta1 * momentum + (1 - beta1) * p.grad)
                p.data = p.data - group["lr"] * (direction + group["weight_decay"] * p.data)
                self.state[p]["m"] = beta2 * momentum + (1 - beta2) * p.grad


def _torchs(rule: Any, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if isinstance(rule, pg.SGD):
        return torch.optim.SGD(groups, momentum=rule.momentum, nesterov=rule.nesterov)
    if isinstance(rule, pg.Adam):
        return torch.optim.Adam(groups, betas=rule.betas, eps=rule.eps, amsgrad=rule.amsgrad)
    if isinstance(rule, pg.AdamW):
        return torch.optim.AdamW(groups, betas=rule.betas, eps=rule.eps)
    if isinstance(rule, pg.Adafactor):
        # Without a number it is the machine epsilon of the tensor's dtype: in float64 another rule.
        first, second = rule.eps
        eps = (2.0**-23 if first is None else first, second)
        return torch.optim.Adafactor(groups, beta2_decay=rule.beta2_decay, eps=eps, d=rule.d)
    assert isinstance(rule, pg.Lion)
    return _Lion(groups, {"betas": rule.betas})


class EagerLoop:
    """What a user writes around `loss.backward()`; the loss is divided by `micro_batches`.

    Attributes:
        leaves: FQN -> tensor, whose `.grad` is read and which is changed in place.
    """

    def __init__(self, optimizer: Optimizer, leaves: Mapping[str, Tensor]) -> None:
        self.leaves, self.micro_batches = leaves, optimizer.accumulate
        self._clip_norm, self._ema_decay = optimizer.clip_norm, optimizer.ema_decay
        self._scales: list[float] = []
        groups: list[dict[str, Any]] = []
        for fqn, leaf in leaves.items():
            own = [g for g in optimizer.groups if fnmatchcase(fqn, g.pattern)][:1]
            decay: float = getattr(optimizer, "weight_decay")  # noqa: B009  (not in the protocol)
            for group in own:
                decay = decay if group.weight_decay is None else group.weight_decay
            self._scales.append(own[0].lr_scale if own else 1.0)
            groups.append({"params": [leaf], "lr": optimizer.lr, "weight_decay": decay})
        self._torch = _torchs(optimizer, groups)
        self._batches = 0
        self._averages = {fqn: leaf.detach().clone() for fqn, leaf in leaves.items()}

    def zero_grad(self) -> None:
        """Before each backward pass: gradients add up over a cycle's micro-batches."""
        if self._batches == 0:
            self._torch.zero_grad()

    def step(self, lr: float) -> None:
        """After each backward pass."""
        self._batches += 1
        if self._batches < self.micro_batches:
            return
        self._batches = 0
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self.leaves.values(), self._clip_norm)
        for group, scale in zip(self._torch.param_groups, self._scales, strict=True):
            group["lr"] = lr * scale
        self._torch.step()
        if self._ema_decay is not None:
            for fqn, average in self._averages.items():
                average.lerp_(self.leaves[fqn].detach(), 1 - self._ema_decay)

    @property
    def average(self) -> Mapping[str, Tensor]:
        """FQN -> what evaluation reads."""
        return self.leaves if self._ema_decay is None else self._averages
