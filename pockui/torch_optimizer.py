"""A plan's optimizer in plain PyTorch: `torch.optim` and what a training loop puts around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pockgraph.globs import matches
from pockgraph.parity.eager_optimizer import TORCH_CLASSES


class PlainOptimizer:
    """What a training loop does besides loss and backward.

    Args:
        described: as in a plan, `{"name": "sgd", "momentum": 0.9, …}`.
        named: FQN -> parameter, for those that learn.

    Attributes:
        micro_batches: how many backward passes make an update; each loss is divided by that.
    """

    def __init__(self, described: Mapping[str, Any], named: Mapping[str, nn.Parameter]) -> None:
        options = {k: v for k, v in described.items() if k != "name"}
        self.micro_batches: int = options.pop("accumulate", 1)
        self._clip_norm: float | None = options.pop("clip_norm", None)
        self._ema_decay: float | None = options.pop("ema_decay", None)
        groups = options.pop("groups", [])
        self._parameters: list[torch.Tensor] = list(named.values())
        params: list[dict[str, Any]] = []
        for fqn, parameter in named.items():
            group = next((g for g in groups if matches(fqn, g["pattern"])), {})
            own = {"weight_decay": group["weight_decay"]} if "weight_decay" in group else {}
            params.append({"params": [parameter], "lr_scale": group.get("lr_scale", 1.0), **own})
        merged = _merged(params)
        self._optimizer = TORCH_CLASSES[described["name"]](merged, **options)
        self._seen = 0
        self._average: list[torch.Tensor] | None = None

    def zero_grad(self) -> None:
        """Before each backward pass; gradients of an unfinished update stay."""
        if self._seen % self.micro_batches == 0:
            self._optimizer.zero_grad()
        if self._average is None and self._ema_decay is not None:
            self._average = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """After each backward pass; every `micro_batches`-th one updates."""
        self._seen += 1
        if self._seen % self.micro_batches:
            return
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        self._optimizer.step()
        if self._average is not None and self._ema_decay is not None:
            for mean, p in zip(self._average, self._parameters, strict=True):
                mean.lerp_(p, 1 - self._ema_decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The parameters are their average meanwhile, where one is kept."""
        if self._average is None:
            yield
            return
        own = [p.detach().clone() for p in self._parameters]
        try:
            _copy(self._average, self._parameters)
            yield
        finally:
            _copy(own, self._parameters)

    def forget(self) -> None:
        """Drop gradients, state and average."""
        self._optimizer.zero_grad()
        self._optimizer.state.clear()
        self._seen, self._average = 0, None


def _merged(params: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One parameter group for all parameters of equal options: torch.optim loops over groups."""
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in params:
        key = tuple(sorted((k, v) for k, v in one.items() if k != "params"))
        if key in merged:
            merged[key]["params"] += one["params"]
        else:
            merged[key] = one
    return list(merged.values())


@torch.no_grad()
def _copy(values: list[torch.Tensor], into: list[torch.Tensor]) -> None:
    for value, parameter in zip(values, into, strict=True):
        parameter.copy_(value)
