"""What PyTorch has in a special form, and a step in a plain one: sparse gradients, bags, eval-mode noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from users import CLASSES, assert_as_eager, batches, cross_entropy, mlp, task

import pockgraph as pg
from pockgraph.errors import CaptureError

DATA = batches(8, 12)
WORDS = 20


def ids() -> list[dict[str, Tensor]]:
    g = torch.Generator().manual_seed(0)
    draw = lambda below, *size: torch.randint(0, below, size, generator=g)  # noqa: E731
    return [{"x": draw(WORDS, 8, 6), "y": draw(CLASSES, 8)} for _ in range(3)]


class Looks(nn.Module):
    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table, self.out = table, nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        found = self.table(x)
        return self.out(found if found.ndim == 2 else found.mean(1))


TABLES: dict[str, Callable[[], nn.Module]] = {
    "sparse embedding": lambda: nn.Embedding(WORDS, 6, sparse=True),
    "sparse bag": lambda: nn.EmbeddingBag(WORDS, 6, mode="sum", sparse=True),
    "embedding scaled by frequency": lambda: nn.Embedding(WORDS, 6, 2, scale_grad_by_freq=True),
    "bag with padding": lambda: nn.EmbeddingBag(WORDS, 6, padding_idx=2),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_train_as_with_dense_gradients(kind: str, target: str) -> None:
    assert_as_eager(task(Looks(TABLES[kind]()), ids()), target)


def test_bags_of_uneven_sizes_on_the_torch_target() -> None:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.out = nn.EmbeddingBag(WORDS, 6, include_last_offset=True), nn.Linear(6, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            ends = torch.tensor([0, 4, 5, 5, 20, 30, 31, 40, 48])
            return self.out(self.bag(x.flatten(), ends, per_sample_weights=None))

    assert_as_eager(task(Bags(), ids()), "torch")


def test_a_frozen_table_that_is_renormalised_is_state_of_the_step(target: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    net, data = Looks(nn.Embedding(WORDS, 6, max_norm=1.0).requires_grad_(False)), ids()
    graph = pg.build(task(net, data), pg.SGD(lr=0.1))
    trainer = pg.compile(graph, target=target, out=tmp_path / "out").trainer()
    optimizer = torch.optim.SGD(net.out.parameters(), lr=0.1)
    for batch in data:
        loss = cross_entropy(net, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert trainer.step(batch, lr=0.1).loss == pytest.approx(loss.item(), rel=1e-5)
    for fqn, value in net.state_dict().items():
        torch.testing.assert_close(torch.from_numpy(trainer.state()[fqn]), value)


def test_rrelu_outside_of_training_is_no_random_number(target: str) -> None:
    assert_as_eager(task(nn.Sequential(nn.Linear(12, 8), nn.RReLU(), nn.Linear(8, 5)), DATA), target)


def test_rrelu_in_training_is_refused() -> None:
    net = nn.Sequential(nn.Linear(12, 8), nn.RReLU(), nn.Linear(8, 5))
    with pytest.raises(CaptureError, match="random numbers"):
        pg.build(task(net, DATA, dropout=True))


def test_a_linear_system_is_solved_on_the_torch_target() -> None:
    class Solves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.a = mlp(), nn.Parameter(torch.randn(12, 12) * 0.1)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(torch.linalg.solve(torch.eye(12, dtype=x.dtype) + self.a, x.t()).t())

    assert_as_eager(task(Solves(), DATA), "torch")


def test_a_parameter_without_elements_disturbs_nothing() -> None:
    class Prompted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.prompt = mlp(), nn.Parameter(torch.zeros(0, 12))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(torch.cat([self.prompt, x]))

    assert_as_eager(task(Prompted(), DATA), "torch")


def test_a_loss_that_calls_backward_is_told_to_return_the_loss() -> None:
    def loss(m: nn.Module, b: Any) -> Tensor:
        value = F.cross_entropy(m(b["x"]), b["y"])
        value.backward()
        return value

    line = loss.__code__.co_firstlineno + 2
    with pytest.raises(CaptureError, match=rf"test_field_plain_forms\.py:{line}: it calls \.backward\(\)"):
        pg.build(task(mlp(), DATA, loss))


def test_a_scale_that_widens_one_channel_before_a_transposed_convolution(target: str) -> None:
    class Widens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.out = nn.Conv2d(3, 1, 3), nn.Linear(48, CLASSES)
            self.register_buffer("scale", torch.linspace(-1, 1, 4).view(1, 4, 1, 1))
            self.register_buffer("weight", torch.linspace(-1, 1, 48).view(4, 3, 2, 2))

        def forward(self, x: Tensor) -> Tensor:
            wide = self.enter(x) * self.scale  # pyright: ignore
            return self.out(F.conv_transpose2d(wide, self.weight, stride=2).flatten(1))  # pyright: ignore

    assert_as_eager(task(Widens(), batches(4, 3, 4, 4)), target)


def test_a_grey_image_normalised_with_the_statistics_of_three_colours(target: str) -> None:
    class Grey(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.out = nn.Conv2d(3, 4, 3), nn.Linear(16, CLASSES)
            self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.body(x / self.std).relu().flatten(1))  # pyright: ignore

    assert_as_eager(task(Grey(), batches(4, 1, 4, 4)), target)
