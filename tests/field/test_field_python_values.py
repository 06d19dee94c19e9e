"""Values that Python makes anew at every call: refused each time, never one draw for ever."""

from __future__ import annotations

import itertools
import random
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from users import batches, cross_entropy, mlp, summed, task

import pockgraph as pg
from pockgraph.errors import CaptureError

DATA = batches(8, 12)
count = 0
own_random, generator = random.Random(3), np.random.default_rng(0)
ticks, items = itertools.count(), iter([1] * 99)


def counted() -> int:
    global count
    count += 1
    return count


class Schedule:
    step = 0


def scheduled() -> float:
    Schedule.step += 1
    return 1.0 if Schedule.step < 1000 else 2.0


def nested() -> Callable[[], int]:
    calls = 0

    def add() -> int:
        nonlocal calls
        calls += 1
        return calls

    return add


VALUES: dict[str, Callable[[], float]] = {
    "random.random": random.random,
    "a coin": lambda: random.choice([1.0, 2.0]),
    "a coin that is ignored": lambda: 1.0 if random.random() < 2 else 2.0,
    "a Random of one's own": lambda: own_random.choice([1.0, 2.0]),
    "numpy.random": lambda: float(np.random.choice([1.0, 2.0])),
    "a numpy generator": lambda: float(generator.integers(2)),
    "time": time.perf_counter,
    "uuid": lambda: uuid.uuid4().int % 1000,
    "a global counter": counted,
    "a counter in a closure": nested(),
    "a class's counter, far from its branch": scheduled,
    "an iterator": lambda: 1.0 if next(items) > 0 else 2.0,
    "itertools.count": lambda: next(ticks),
    "every tenth call": lambda: 1.0 if counted() % 10 == 0 else 2.0,
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_that_changes_by_itself_is_refused_every_time(name: str) -> None:
    """Without luck: coins are thrown more often than values that never come twice."""
    value = VALUES[name]

    def loss(m: nn.Module, b: Any) -> Tensor:
        return cross_entropy(m, b) * value()

    for _ in range(10 if "coin" in name else 2):
        with pytest.raises(CaptureError, match=r"batch|buffer"):
            pg.build(task(mlp(), DATA, loss))


def test_randomness_in_forward_is_refused_with_its_line() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x * random.uniform(0.9, 1.1))

    with pytest.raises(CaptureError, match=r"test_field_python_values\.py:\d+.*Python's `random`"):
        pg.build(task(Noisy(), DATA))


def test_a_metric_with_randomness_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"metric.*`np\.random`"):
        pg.build(task(mlp(), DATA, metric=lambda m, b: summed(m, b) * np.random.rand()))


def test_torchs_own_noise_is_refused_by_name() -> None:
    with pytest.raises(CaptureError, match=r"random numbers.*test_field_python_values\.py"):
        pg.build(task(mlp(), DATA, lambda m, b: cross_entropy(m, b) + m(b["x"] + torch.randn(8, 12)).mean()))


@pytest.mark.parametrize(
    "array",
    [np.ones(5, np.float32), torch.ones(5), [1.0, 2.0, 3.0, 4.0, 5.0]],
    ids=["numpy", "torch", "list"],
)
def test_constants_of_any_kind_are_right(array: Any) -> None:
    def loss(m: nn.Module, b: Any) -> Tensor:
        return (m(b["x"]) * torch.as_tensor(array)).square().mean()

    assert pg.build(task(mlp(), DATA, loss)).tensors


def test_python_that_comes_out_the_same_is_allowed() -> None:
    seen: dict[str, Any] = {}

    def loss(m: nn.Module, b: Any) -> Tensor:
        scale = sum(1 / k for k in range(1, 4))
        seen["last"] = scale
        random_order = sorted({"b", "a"})
        return cross_entropy(m, b) * scale * len(random_order)

    assert pg.build(task(mlp(), DATA, loss)).tensors


def test_build_leaves_every_random_state_and_counter_alone() -> None:
    net = mlp()
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state(), count  # pyright: ignore
    for value in (random.random, np.random.rand, counted):
        with pytest.raises(CaptureError):
            pg.build(task(net, DATA, lambda m, b, value=value: cross_entropy(m, b) * value()))
    pg.build(task(net, DATA, dropout=True))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tobytes() == before[1]  # pyright: ignore
    assert torch.equal(torch.get_rng_state(), before[2])
    assert count == before[3]
