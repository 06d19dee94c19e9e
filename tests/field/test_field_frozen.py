"""What the user froze stays frozen; what the user would train is in the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from users import assert_as_eager, batches, cross_entropy, mlp, task

import pockgraph as pg
from pockgraph.errors import PlanError, PockError, TaskError
from pockgraph.ir.interpreter import interpret
from pockgraph.train_graph import TrainGraph

DATA = batches(8, 12)


class Lora(nn.Module):
    """A frozen layer and a trained low-rank change of it."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) * 0.1)
        self.up = nn.Parameter(torch.randn(base.out_features, rank) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.t() @ self.up.t()


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(12), requires_grad=False)
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x + self.table)


def lora() -> nn.Module:
    net = mlp()
    return nn.Sequential(Lora(net[0]), net[1], Lora(net[2]))  # pyright: ignore


def frozen_of(net: nn.Module) -> set[str]:
    return {n for n, p in net.named_parameters() if not p.requires_grad}


PLANS: dict[str, Callable[[TrainGraph], pg.Plan]] = {
    "full": pg.Plan.full,
    "head": pg.Plan.head,
    "biases": lambda graph: pg.Plan.last_k_biases(graph, 3),
    "preset": pg.Plan.preset,
}


@pytest.mark.parametrize("kind", [lora, Positions])
@pytest.mark.parametrize("plan", PLANS)
def test_no_plan_trains_what_the_user_froze(kind: Callable[[], nn.Module], plan: str) -> None:
    net = kind()
    graph = pg.build(task(net, DATA))
    assert not frozen_of(net) & PLANS[plan](graph).tensors.keys()
    assert {*graph.frozen} == frozen_of(net)


@pytest.mark.parametrize("kind", [lora, Positions])
def test_the_rest_trains_as_in_pytorch(kind: Callable[[], nn.Module], target: str) -> None:
    assert_as_eager(task(kind(), DATA), target)


def test_a_plan_that_names_a_frozen_tensor_is_refused() -> None:
    graph = pg.build(task(Positions(), DATA))
    with pytest.raises(PlanError, match=r"froze table.*requires_grad_\(True\)"):
        pg.Plan.of(graph, {"table": 1.0})


def test_a_plan_from_before_the_tensor_was_frozen() -> None:
    """One that trains it is refused; one that leaves it alone still fits."""
    net = Positions().requires_grad_(True)
    open_ = pg.build(task(net, DATA))
    full, rest = pg.Plan.full(open_), pg.Plan.of(open_, {"body.0.weight": 1.0})
    net.table.requires_grad_(False)
    graph = pg.build(task(net, DATA))
    with pytest.raises(PlanError, match=r"froze table.*requires_grad_\(True\)"):
        graph.prune(full)
    assert graph.prune(rest).plan.tensors.keys() == {"body.0.weight"}


def test_a_search_proposes_no_frozen_tensor(tmp_path: Any) -> None:
    with pg.Study(tmp_path / "study.db", task(Positions(), DATA)) as study:
        study.analyze(steps=2, lr=0.01, target="torch")
        assert "table" not in {m.candidate.fqn for m in study.measurements()}
        assert "table" not in study.search(pg.Budget(peak_bytes=10**9)).tensors


def test_a_model_with_everything_frozen_says_so() -> None:
    with pytest.raises(TaskError, match=r"every parameter.*requires_grad=False.*requires_grad_\(True\)"):
        pg.build(task(mlp().requires_grad_(False), DATA))


# ---------------------------------------------------------------- outside of the model


def test_class_centres_outside_of_the_model_are_refused() -> None:
    centres = nn.Parameter(torch.randn(5, 5))

    def loss(m: nn.Module, b: Any) -> Tensor:
        return cross_entropy(m, b) + (m(b["x"]) - centres[b["y"]]).square().mean()

    with pytest.raises(TaskError, match=r"'centres'.*Put it into the model"):
        pg.build(task(mlp(), DATA, loss))


def test_a_criterion_with_weights_outside_of_the_model_is_refused() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(5))

        def forward(self, out: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(out * self.scale, y)

    criterion = Weighted()
    with pytest.raises(TaskError, match=r"'criterion\.scale'.*Put it into the model"):
        pg.build(task(mlp(), DATA, lambda m, b: criterion(m(b["x"]), b["y"])))


def test_a_criterion_inside_the_model_trains(target: str) -> None:
    net = nn.Module()
    net.body, net.scale = mlp(), nn.Parameter(torch.ones(5))
    assert_as_eager(
        task(
            net, DATA,
            lambda m, b: F.cross_entropy(m.body(b["x"]) * m.scale, b["y"]),
            lambda m, b: m.body(b["x"]).sum(1),
        ),
        target,
    )  # fmt: skip


@pytest.mark.parametrize("how", ["frozen", "no_grad"])
def test_a_foreign_network_that_does_not_learn_is_a_constant(how: str, target: str, tmp_path: Any) -> None:
    features = nn.Sequential(nn.Linear(5, 7), nn.Tanh()).requires_grad_(how != "frozen")

    def loss(m: nn.Module, b: Any) -> Tensor:
        out = m(b["x"])
        if how == "frozen":
            return (features(out) - features(F.one_hot(b["y"], 5).float())).square().mean()
        with torch.no_grad():
            wanted = features(out)[:, :5]
        return (out - wanted).square().mean()

    net = mlp()
    graph = pg.build(task(net, DATA, loss), pg.SGD(lr=0.1))
    trainer = pg.compile(graph, target=target, out=tmp_path / "out").trainer()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for batch in DATA:
        eager = loss(net, batch)
        optimizer.zero_grad()
        eager.backward()
        optimizer.step()
        assert trainer.step(batch, lr=0.1).loss == pytest.approx(eager.item(), rel=1e-5)


def test_a_reference_to_a_parameter_is_the_parameter() -> None:
    """Weight decay written by hand, over a list that the user made before."""
    net = mlp()
    matrices = [net[0].weight, net[2].weight]

    def loss(m: nn.Module, b: Any) -> Tensor:
        return cross_entropy(m, b) + 0.01 * sum(w.square().sum() for w in matrices)  # pyright: ignore

    graph = pg.build(task(net, DATA, loss))
    found = interpret(graph.gradients, DATA[0])
    loss(net, DATA[0]).backward()
    torch.testing.assert_close(found["grad:0.weight"], net[0].weight.grad)


def test_the_memory_of_a_parameter_held_elsewhere_is_refused() -> None:
    net = mlp()
    start = net[0].weight.data
    with pytest.raises(PockError, match=r"parameter '0\.weight'"):
        pg.build(task(net, DATA, lambda m, b: cross_entropy(m, b) + (m[0].weight * start).sum()))


def test_a_tensor_made_from_a_parameter_before_is_refused() -> None:
    net = mlp()
    kept = net[0].weight.t()
    with pytest.raises(PockError, match=r"parameter '0\.weight'"):
        pg.build(task(net, DATA, lambda m, b: cross_entropy(m, b) + kept.square().sum()))
