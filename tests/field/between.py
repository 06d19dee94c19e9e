"""A network with something of a user's between two of its layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """Activations of a shape (without the batch), and what the user's network makes of them.

    Attributes:
        module: builds it; it may hold parameters of its own.
    """

    shape: tuple[int, ...]
    module: Callable[[], nn.Module]


class Lambda(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Between(nn.Module):
    """`[N, 6]` → a linear layer → activations `[N, *case.shape]` → the case → a linear layer → classes."""

    def __init__(self, case: Case, classes: int = 5) -> None:
        super().__init__()
        self.shape = case.shape
        self.first = nn.Linear(6, math.prod(case.shape))
        self.inner = case.module()
        with torch.no_grad():
            training = self.inner.training
            width = self.inner.eval()(torch.zeros(2, *case.shape)).flatten(1).shape[1]
            self.inner.train(training)
        self.last = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.first(x).unflatten(1, self.shape)).flatten(1))


def function(*shape: int) -> Callable[[Function], Case]:
    return lambda f: Case(shape, lambda: Lambda(f))


def module(build: Callable[[], nn.Module], *shape: int) -> Case:
    return Case(shape, build)
