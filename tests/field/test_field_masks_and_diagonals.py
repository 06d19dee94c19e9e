"""Selected elements that a model or a loss writes: by a mask of booleans, or along a diagonal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from users import CLASSES, assert_as_eager, batches, in_turn, mlp, task

import pockgraph as pg
from pockgraph.errors import CaptureError

DATA = batches(8, 12)
Change = Callable[[Tensor, Tensor], Tensor]


def square(x: Tensor) -> Tensor:
    return F.normalize(x, dim=1) @ F.normalize(x, dim=1).T * 3


class Changes(nn.Module):
    def __init__(self, change: Change) -> None:
        super().__init__()
        self.first, self.last, self.change = nn.Linear(12, 8), nn.Linear(8, CLASSES), change

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.change(square(x), x))


def by_masks(y: Tensor, x: Tensor) -> Tensor:
    """Of a whole tensor, of rows and of columns, beside integers and slices; numbers and what is learned."""
    scale = y.detach().relu().sum(0).round().pow(-0.5)
    scale[scale == float("inf")] = 0
    y = y * scale
    y[x[:, 0] > 0] = x[0]
    y[:, x[0] > 0] = x[:, 1:2]
    both = torch.stack([y, x])
    both[0, x[:, 1] > 0] = 9.0
    both[..., x > 1] = x.mean()
    both[:, x[:, 0] > 0.5, 2:5] = -2
    return both.sum(0)


def of_integers(y: Tensor, x: Tensor) -> Tensor:
    """By masks, and where an extreme of integers is looked for."""
    places = x.argsort(1)
    places[places > 5] = 2.7  # pyright: ignore[reportArgumentType] # which PyTorch cuts off
    keep = torch.zeros(8, 8, dtype=torch.bool)
    keep[x > 0] = True
    keep[:, x[0] > 0] = False
    running = (x.argsort(1) - 4).cummax(1).values + x.argsort(1).int().cummin(0).values
    sent, to = x.argsort(0) - 4, x.argsort(1) // 2
    for reduce in ("amax", "amin", "mean"):
        running = running + torch.zeros_like(sent).scatter_reduce(1, to, sent, reduce, include_self=False)
    return y * torch.where(places > 2, keep, ~keep) + places + running


def diagonals(y: Tensor, x: Tensor) -> Tensor:
    z = y.fill_diagonal_(float("-inf")).softmax(1) * 2
    z[1:6, 2:].t().fill_diagonal_(0.5)
    z[:, :3].fill_diagonal_(1.0, wrap=True)
    torch.diagonal(z).add_(-1).pow_(2)
    return torch.diagonal_scatter(z, x[0, :7], -1)


CHANGES: dict[str, Change] = {"by_masks": by_masks, "of_integers": of_integers, "diagonals": diagonals}


@pytest.mark.parametrize(("name", "target"), in_turn(CHANGES))
def test_elements_that_are_written(name: str, target: str) -> None:
    assert_as_eager(task(Changes(CHANGES[name]), DATA), target)


def test_similarities_without_those_of_a_sample_to_itself(target: str) -> None:
    def loss(m: nn.Module, b: Any) -> Tensor:
        z = F.normalize(torch.cat([m(b["x"]), m(b["x"].flip(1))]), dim=1)
        similarity = (z @ z.T / 0.1).fill_diagonal_(float("-inf"))
        n = len(b["x"])
        return F.cross_entropy(similarity, torch.cat([torch.arange(n, 2 * n), torch.arange(n)]))

    assert_as_eager(task(mlp(), DATA, loss), target)


def test_a_likelihood_of_torchs_distributions(target: str) -> None:
    def loss(m: nn.Module, b: Any) -> Tensor:
        mean, spread = m(b["x"]).chunk(2, 1)[0], m(b["x"])[:, 3:].exp()
        said = torch.distributions.Normal(mean[:, :1], spread[:, :1])
        return (
            -said.log_prob(b["x"][:, :1]).mean()
            + torch.distributions.Categorical(logits=m(b["x"])).entropy().mean()
        )

    assert_as_eager(task(mlp(), DATA, loss), target)


def test_checks_of_torchs_distributions_are_on_again_after_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch turns them off itself when its compiler is imported, as other tests do.
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    pg.build(task(mlp(), DATA), pg.SGD(lr=0.1))
    with pytest.raises(ValueError, match="scale"):
        torch.distributions.Normal(torch.zeros(()), -torch.ones(()))


def test_what_a_mask_selects_is_refused_with_the_line() -> None:
    def loss(m: nn.Module, b: Any) -> Tensor:
        y = m(b["x"]) * 1
        y[y > 0] += 1
        return y.mean()

    line = loss.__code__.co_firstlineno + 2
    with pytest.raises(CaptureError, match=rf"masks_and_diagonals\.py:{line}.*torch\.where"):
        pg.build(task(mlp(), DATA, loss), pg.SGD(lr=0.1))
