"""Models that keep something from one step to the next."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from users import assert_as_eager, batches, mlp, task

import pockgraph as pg
from pockgraph.errors import PockError

DATA = batches(8, 12)


class Head(nn.Module):
    """`[N, 12]` to logits; what a test derives from."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Nested(nn.Module):
    """Another module one level down."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"net": inner})

    def forward(self, x: Tensor) -> Tensor:
        return self.inner["net"](x)


def refused(model: nn.Module, *says: str, **how: Any) -> None:
    with pytest.raises(PockError) as caught:
        pg.build(task(model, DATA, **how))
    for words in says:
        assert words in str(caught.value), (words, str(caught.value))


# ---------------------------------------------------------------- state that is kept


class Assigned(Head):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(12))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return self.body(x - self.mean)


class Written(Assigned):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(0.1 * x.mean(0))
                self.mean[0] = x.sum()
        return self.body(x - self.mean)


class ByData(Assigned):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.data.lerp_(x.detach().mean(0), 0.1)
        return self.body(x - self.mean)


class OnlyWritten(Assigned):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.copy_(x.mean(0))
        return self.body(x)


class Counter(Assigned):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
        return self.body(x / (1 + self.steps))


@pytest.mark.parametrize("kind", [Assigned, Written, ByData, Counter])
def test_a_buffer_that_forward_changes_is_state_of_the_step(kind: type[nn.Module], target: str) -> None:
    assert_as_eager(task(Nested(kind()), DATA, dropout=True), target)


def test_a_buffer_that_is_written_and_never_read_is_state_too(target: str) -> None:
    assert_as_eager(task(OnlyWritten(), DATA, dropout=True), target)


def test_spectral_norm_trains_in_training_mode(target: str) -> None:
    net = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(12, 16)), nn.ReLU(), nn.Linear(16, 5)
    )
    assert_as_eager(task(net, DATA, dropout=True), target)


# ---------------------------------------------------------------- parameters that change in forward


class Teacher(nn.Module):
    """A slow copy of a layer that follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.online, self.slow = nn.Linear(12, 8), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.slow.weight.mul_(0.9).add_(0.1 * self.online.weight)
            z = self.slow(x)
        return (self.online(x) - z).pow(2).sum(1)


def test_a_teacher_that_follows_its_student_is_state_of_the_step(target: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    net = Teacher()
    t = task(net, DATA, lambda m, b: m(b["x"]).mean(), lambda m, b: m.online(b["x"]).sum(1))
    graph = pg.build(t, pg.SGD(lr=0.05))
    assert {*graph.unused} == {"slow.weight", "slow.bias"}
    trainer = pg.compile(graph, target=target, out=tmp_path / "out").trainer()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for batch in DATA:
        loss = net(batch["x"]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert trainer.step(batch, lr=0.05).loss == pytest.approx(float(loss), rel=1e-5)
    for fqn in ("online.weight", "slow.weight"):
        torch.testing.assert_close(torch.from_numpy(trainer.state()[fqn]), net.get_parameter(fqn).data)


class Normalised(Head):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.body[0].weight.div_(self.body[0].weight.norm(dim=1, keepdim=True))  # pyright: ignore
        return self.body(x)


def test_a_trained_weight_that_forward_normalises_in_place_is_refused() -> None:
    refused(Normalised(), "'body.0.weight'", "test_field_state.py:", "in place", "parametrization")


def test_an_embedding_with_max_norm_is_refused() -> None:
    net = nn.Sequential(nn.Embedding(9, 6, max_norm=1.0), nn.Flatten(), nn.Linear(24, 5))
    data = [{"x": torch.arange(32).reshape(8, 4) % 9, "y": b["y"]} for b in DATA]
    with pytest.raises(PockError, match=r"'0\.weight'.*in place"):
        pg.build(task(net, data))


class Reassigned(Head):
    def forward(self, x: Tensor) -> Tensor:
        self.scale = nn.Parameter(torch.ones(()))
        return self.body(x) * self.scale


class DataAssigned(Head):
    def forward(self, x: Tensor) -> Tensor:
        self.body[0].weight.data = self.body[0].weight.data * 0.5  # pyright: ignore
        return self.body(x)


def test_a_parameter_made_in_forward_is_refused() -> None:
    refused(Reassigned(), "parameter 'scale'", "test_field_state.py:", "__init__")


def test_assigning_data_is_refused() -> None:
    refused(DataAssigned(), ".data", "test_field_state.py:", "copy_")


# ---------------------------------------------------------------- what is no state of a step


class Counts(Head):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.body(x)


class Grows(Head):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.mean().detach())
        return self.body(x)


class PlainMean(Head):
    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(12)

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
        return self.body(x - self.mean)


class PlainInPlace(PlainMean):
    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9)
        return self.body(x - self.mean)


class Cached(Head):
    def __init__(self) -> None:
        super().__init__()
        self.cache: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.cache is None:
            self.cache = self.body[0].weight.mean()  # pyright: ignore
        return self.body(x) + self.cache


class ClassCounter(Head):
    total = 0

    def forward(self, x: Tensor) -> Tensor:
        ClassCounter.total += 1
        return self.body(x)


@pytest.mark.parametrize(
    ("kind", "name", "remedy"),
    [
        (Counts, "'calls'", "buffer"),
        (Grows, "'seen'", "buffer"),
        (PlainMean, "'mean'", "register_buffer"),
        (PlainInPlace, "mean", "register_buffer"),
        (Cached, "'cache'", "register_buffer"),
        (ClassCounter, "ClassCounter.total", "buffer"),
    ],
)
def test_what_python_remembers_is_refused(kind: type[nn.Module], name: str, remedy: str) -> None:
    refused(Nested(kind()), name, remedy, "test_field_state.py:" if kind is not ClassCounter else "")


def test_a_lazy_layer_that_never_ran_is_refused() -> None:
    refused(nn.Sequential(nn.LazyLinear(5)), "'0.weight'", "batch")


class Keeps(Head):
    """Activations kept for who asks, overwritten by every call: no state."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Any = None
        self.parts: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.body[0](x)
        self.parts = {"logits": self.body[2](self.body[1](self.last))}
        return self.parts["logits"]


def test_activations_that_every_call_overwrites_are_allowed(target: str) -> None:
    def loss(m: nn.Module, b: Any) -> Tensor:
        out = m(b["x"])
        return F.cross_entropy(out, b["y"]) + m.last.square().mean()  # pyright: ignore

    assert_as_eager(task(Keeps(), DATA, loss), target)
