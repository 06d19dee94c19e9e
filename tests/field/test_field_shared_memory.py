"""Tensors of a model that lie in one memory: what PyTorch changes together is refused, the rest trains."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from users import assert_as_eager, batches, mlp, task

import pockgraph as pg
from pockgraph.errors import TaskError

DATA = batches(8, 12)


class Net(nn.Module):
    """`body`, and whatever `make` adds, which `also` puts into the result."""

    def __init__(self, make: Callable[[Net], None], also: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.enter, self.also = mlp(), nn.Linear(12, 12), also
        make(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.also(self, self.enter(x).tanh()))


def _start(net: Net) -> None:
    net.register_buffer("start", net.enter.weight.data)


def _tied_by_data(net: Net) -> None:
    net.leave = nn.Linear(12, 12, bias=False)
    net.leave.weight.data = net.enter.weight.data


def _transposed(net: Net) -> None:
    net.leave = nn.Linear(12, 12, bias=False)
    net.leave.weight.data = net.enter.weight.data.t()


def _frozen_copy(net: Net) -> None:
    net.leave = nn.Linear(12, 12, bias=False).requires_grad_(False)
    net.leave.weight.data = net.enter.weight.data


def _one_array(net: Net) -> None:
    array = np.linspace(-1, 1, 200, dtype=np.float32)
    net.one = nn.Parameter(torch.from_numpy(array[:144]).view(12, 12))
    net.two = nn.Parameter(torch.from_numpy(array[20:164]).view(12, 12))


def _buffers(net: Net) -> None:
    net.register_buffer("all", torch.zeros(4))
    net.register_buffer("first", net.all[:1])  # pyright: ignore


def _counted(net: Net, x: Tensor) -> Tensor:
    net.all.add_(1.0)  # pyright: ignore
    return x * (1 + net.first)  # pyright: ignore


SHARED: dict[str, tuple[Callable[[Net], None], Callable[[Net, Tensor], Tensor], str]] = {
    "a buffer made of weight.data": (_start, lambda m, x: x - x @ m.start, r"'enter\.weight' and 'start'"),  # pyright: ignore
    "tied by .data": (_tied_by_data, lambda m, x: m.leave(x), r"'enter\.weight' and 'leave\.weight'"),
    "tied by .data.t()": (_transposed, lambda m, x: m.leave(x), r"'enter\.weight' and 'leave\.weight'"),
    "one of them frozen": (_frozen_copy, lambda m, x: m.leave(x), r"'enter\.weight' and 'leave\.weight'"),
    "parts of one array": (_one_array, lambda m, x: x @ m.one @ m.two, "'one' and 'two'"),  # pyright: ignore
    "a view of a buffer that changes": (_buffers, _counted, "'first' and 'all'"),
}


@pytest.mark.parametrize("kind", SHARED)
def test_what_pytorch_changes_together_is_refused(kind: str) -> None:
    make, also, names = SHARED[kind]
    with pytest.raises(TaskError, match=rf"{names} lie in the same memory.*clone"):
        pg.build(task(Net(make, also), DATA))


def test_a_parameter_that_is_expanded_is_refused() -> None:
    def make(net: Net) -> None:
        net.w = nn.Parameter(torch.ones(1, 12).expand(12, 12))

    with pytest.raises(TaskError, match=r"'w' lie in the same memory.*expand.*clone"):
        pg.build(task(Net(make, lambda m, x: x @ m.w), DATA))  # pyright: ignore


def test_parts_of_one_memory_that_do_not_overlap_train(target: str) -> None:
    """As flattened weights and columns of one matrix lie."""

    def make(net: Net) -> None:
        whole = torch.linspace(-1, 1, 12 * 24).view(12, 24)
        net.left, net.right = nn.Parameter(whole[:, :12]), nn.Parameter(whole[:, 12:])

    assert_as_eager(task(Net(make, lambda m, x: (x @ m.left).tanh() @ m.right), DATA), target)  # pyright: ignore


def test_constants_may_lie_in_one_memory() -> None:
    def make(net: Net) -> None:
        net.table = nn.Parameter(torch.ones(12), requires_grad=False)
        net.register_buffer("view", net.table.data[:6])

    assert pg.build(task(Net(make, lambda m, x: x * m.table + m.view.sum()), DATA)).tensors  # pyright: ignore
