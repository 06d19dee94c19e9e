"""Sums, extremes, norms and the like over some dimensions."""

from __future__ import annotations

import math

import pytest
import torch

from .comparison import Comparison, ints, rand

aten = torch.ops.aten


REDUCTIONS = {
    "sum": torch.sum,
    "sum_dims": lambda x: x.sum((0, 2)),
    "sum_keep": lambda x: x.sum((-1,), keepdim=True),
    "mean": torch.mean,
    "mean_dims": lambda x: x.mean((1, 2)),
    "amax": lambda x: x.amax(1),
    "amax_dims": lambda x: x.amax((0, 2), keepdim=True),
    "amin": lambda x: x.amin(1),
    "max": torch.max,
    "min": torch.min,
    "max_dim": lambda x: x.max(1).values,
    "min_dim": lambda x: x.min(-1, keepdim=True).values,
    "topk": lambda x: x.topk(2, 1).values,
    "var": lambda x: x.var(1),
    "var_biased": lambda x: x.var((0, 1), correction=0, keepdim=True),
    "std": lambda x: x.std(2),
    "norm": lambda x: torch.linalg.vector_norm(x),
    "norm1": lambda x: torch.linalg.vector_norm(x, 1, dim=1),
    "norm3": lambda x: torch.linalg.vector_norm(x, 3, dim=1, keepdim=True),
    "norm_inf": lambda x: torch.linalg.vector_norm(x, float("inf"), dim=1),
    "logsumexp": lambda x: x.logsumexp(1),
    "cumsum": lambda x: x.cumsum(1),
}


class Reductions(Comparison):
    def test_extremes_of_nothing_but_infinities(self) -> None:
        x = rand(3, 4, 5)
        x[0, 1] = -math.inf
        x[1] = math.inf
        x[2, :, 2] = -torch.finfo().max
        self.check(
            lambda x: (x.amax(2), x.amin(2), x.amax(1), x.amin((1, 2), keepdim=True), x[0, 1].max()), x
        )
        self.check(lambda x: (torch.max(x), torch.min(x)), torch.full((7,), -math.inf))

    @pytest.mark.parametrize("name", REDUCTIONS)
    def test_reductions(self, name: str) -> None:
        self.check_grad(REDUCTIONS[name], rand(3, 4, 5))

    def test_reductions_without_gradient(self) -> None:
        x = rand(3, 4, 5)
        self.check(
            lambda x: (
                x.argmax(),
                x.argmax(1),
                x.argmin(-1, keepdim=True),
                x.max(1).indices,
                x.min(0).indices,
            ),
            x,
        )
        self.check(
            lambda x: ((x > 1).any(), (x > 1).any(1), (x > -1).all(), (x > -1).all(2), *torch.var_mean(x, 1)),
            x,
        )
        self.check(lambda x: (x.prod(), x.prod(1)), x)
        self.check(
            lambda i: (i.sum(), i.sum(0), i.cumsum(1), i.bool().sum(), i.amax(1), i.prod(1)), ints(5, 3, 4)
        )
        self.check(lambda i: i.argmax(1), ints(3, 6, 9))  # ties: the first
