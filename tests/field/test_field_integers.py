"""Times, hashes and ids in a batch: what a target cannot compute with exactly is refused, never rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from users import CLASSES, assert_as_eager, task

import pockgraph as pg
from pockgraph.errors import BatchError

NOW = 1_700_000_000  # seconds


class Hours(nn.Module):
    """Learns from the hour of a time in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.hours, self.out = nn.Embedding(24, 6), nn.Linear(6, CLASSES)

    def forward(self, t: Tensor) -> Tensor:
        return self.out(self.hours((t // 3600) % 24))


def times(start: int, count: int = 3) -> list[dict[str, Tensor]]:
    g = torch.Generator().manual_seed(0)
    draw = lambda below: torch.randint(0, below, (8,), generator=g)  # noqa: E731
    return [{"t": start + draw(10**6), "y": draw(CLASSES)} for _ in range(count)]


def of_times(data: list[dict[str, Tensor]], net: nn.Module | None = None) -> pg.Task:
    return task(net or Hours(), data, lambda m, b: F.cross_entropy(m(b["t"]), b["y"]),
                lambda m, b: m(b["t"]).sum(1))  # fmt: skip


def test_the_hour_of_a_small_time(target: str) -> None:
    assert_as_eager(of_times(times(0)), target)


@pytest.mark.parametrize("where", ["onnx", "torch"])
def test_the_hour_of_a_time_since_1970(where: str) -> None:
    assert_as_eager(of_times(times(NOW)), where)


def test_a_time_since_1970_is_refused_where_it_would_be_rounded(tmp_path: Any) -> None:
    with pytest.raises(BatchError, match=r"'t'.*2\*\*24.*days and seconds.*another target"):
        pg.compile(pg.build(of_times(times(NOW)), pg.SGD(lr=0.1)), target="openvino", out=tmp_path / "out")


def test_times_that_grow_after_compiling_are_refused(tmp_path: Any) -> None:
    graph = pg.build(of_times(times(0)), pg.SGD(lr=0.1))
    trainer = pg.compile(graph, target="openvino", out=tmp_path / "out").trainer()
    before = trainer.state()
    with pytest.raises(BatchError, match=r"'t'.*-16777215 to 16777215"):
        trainer.step(times(NOW)[0])
    with pytest.raises(BatchError, match=r"'t'.*-16777215 to 16777215"):
        trainer.evaluate(times(NOW))
    assert all((before[k] == v).all() for k, v in trainer.state().items())


def same_user(m: nn.Module, b: Any) -> Tensor:
    f = m(b["x"])
    near = (b["user"][:, None] == b["user"][None]).float()
    return (torch.cdist(f, f).square() * near).mean() + f.square().mean()


def scaled(m: nn.Module, b: Any) -> Tensor:
    return (m(b["x"]).sum(1) * ((b["user"] * 1000 + 7) % 5)).square().mean()


def as_float(m: nn.Module, b: Any) -> Tensor:
    return (m(b["x"]).sum(1) * (b["user"].float() / 1e12)).square().mean()


def ranked(m: nn.Module, b: Any) -> Tensor:
    return (m(b["x"]).sum(1) * b["user"].argsort().argsort()).square().mean()


def of_users(loss: Callable[[nn.Module, Any], Tensor], users: list[int]) -> pg.Task:
    g = torch.Generator().manual_seed(0)
    data = [{"x": torch.randn(4, 6, generator=g), "user": torch.tensor(users)} for _ in range(3)]
    return task(nn.Linear(6, 3), data, loss)


@pytest.mark.parametrize(
    ("loss", "users", "fits"),
    [
        (same_user, [16_777_216, 16_777_217, 5, 5], [2, 3, 5, 5]),
        (scaled, [30_000, 2, 3, 4], [9_000, 2, 3, 4]),
        (ranked, [16_777_218, 16_777_217, 16_777_216, 5], [3, 2, 1, 5]),
        (as_float, [10**12, 1, 2, 3], [2**31 - 1, 1, 2, 3]),
    ],
)
def test_ids_that_openvino_would_confuse_are_refused(
    loss: Callable[[nn.Module, Any], Tensor], users: list[int], fits: list[int], tmp_path: Any
) -> None:
    assert_as_eager(of_users(loss, users), "onnx", pg.SGD(lr=1e-3))
    assert_as_eager(of_users(loss, fits), "openvino", pg.SGD(lr=1e-3))
    with pytest.raises(BatchError, match=r"'user'.*another target"):
        pg.compile(pg.build(of_users(loss, users)), target="openvino", out=tmp_path / "out")


def test_token_ids_and_labels_have_the_limits_of_their_tables_alone(tmp_path: Any) -> None:
    net = nn.Sequential(nn.Embedding(50, 6), nn.Flatten(), nn.Linear(24, CLASSES))
    data = [{"t": torch.arange(32).view(8, 4), "y": torch.arange(8) % CLASSES}]
    artifact = pg.compile(pg.build(of_times(data, net)), target="openvino", out=tmp_path / "out")
    assert {(limit.entry, limit.high) for limit in artifact.manifest.train_limits} == {("t", 49), ("y", 4)}


def of_hours(make: Callable[[Any], Tensor], hours: list[int], rooms: list[int]) -> pg.Task:
    """A loss weighted with a remainder of what is made of two integers."""
    g = torch.Generator().manual_seed(0)
    entries = {"hour": torch.tensor(hours), "room": torch.tensor(rooms)}
    data = [{"x": torch.randn(4, 6, generator=g), **entries} for _ in range(3)]
    return task(nn.Linear(6, 3), data, lambda m, b: (m(b["x"]).sum(1) * (make(b) % 5)).square().mean())


@pytest.mark.parametrize(
    ("make", "large"),
    [
        (lambda b: b["hour"] * b["room"], [5001, 2, 3, 4]),
        (lambda b: b["hour"] * b["room"], [2**20, 2, 3, 4]),  # in 32 bits the product is 0
        (lambda b: b["hour"] ** 3, [501, 2, 3, 4]),
        (lambda b: b["hour"] << 13, [5001, 2, 3, 4]),
        (lambda b: (b["hour"] * 31 + b["room"]) * 31, [400_003, 2, 3, 4]),
        (lambda b: b["hour"].cumsum(0), [16_000_001, 2_000_001, -2_000_001, 4]),
        (lambda b: b["hour"].int().prod(), [1601, 2001, 2001, 4]),
    ],
)
def test_integers_that_the_model_makes_larger_than_openvino_computes_with(
    make: Callable[[Any], Tensor], large: list[int], tmp_path: Any
) -> None:
    rooms = [2**20 if large[0] == 2**20 else 4999, 3, 4, 5]
    small = of_hours(make, [3, 5, 7, 9], [2, 3, 4, 5])
    assert_as_eager(small, "openvino", pg.SGD(lr=1e-3))
    trainer = pg.compile(pg.build(small), target="openvino", out=tmp_path / "out").trainer()
    before, beyond = trainer.state(), of_hours(make, large, rooms)
    words = r"an integer that the model computes is beyond 2\*\*24.*test_field_integers.*another target"
    with pytest.raises(BatchError, match=f"In step 1 {words}"):
        trainer.step(beyond.example, 1e-3)
    assert all((before[k] == v).all() for k, v in trainer.state().items())
    with pytest.raises(BatchError, match=f"first training batch of task 'field' {words}"):
        pg.compile(pg.build(beyond), target="openvino", out=tmp_path / "other")
    with torch.no_grad():
        eager = float(beyond.loss(small.model, beyond.example))
    elsewhere = pg.compile(pg.build(small), target="onnx", out=tmp_path / "onnx").trainer()
    assert elsewhere.step(beyond.example, 1e-3).loss == pytest.approx(eager, rel=1e-4)


@pytest.mark.parametrize(
    "make", [lambda b: b["hour"] * (b["room"] > 2), lambda b: (b["hour"] % 1000) * (b["room"] % 1000)]
)
def test_integers_that_cannot_become_too_large_are_not_checked(
    make: Callable[[Any], Tensor], tmp_path: Any
) -> None:
    made = of_hours(make, [16_001, 5003, 7, 9], [16_001, 4999, 4, 5])
    assert_as_eager(made, "openvino", pg.SGD(lr=1e-3))
    artifact = pg.compile(pg.build(made), target="openvino", out=tmp_path / "out")
    assert not artifact.manifest.train_integers
