"""`Plan.apply`: any loop of PyTorch trains what the plan says, to the step, and nothing else."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Sequence

import pytest
import torch
from eager_loop import EagerLoop
from oracle import OPTIMIZER_CASES, PLANS, Case, TrainingContract, built
from policies import BatchNorms
from torch import nn
from truth import Steps

import pockgraph as pg
from pockgraph.errors import PlanError
from pockgraph.plan import Plan, Trained
from pockgraph.task.batch import Batch
from pockgraph.train_graph import TrainGraph


def applied_steps(graph: TrainGraph, batches: Sequence[Batch], lrs: Sequence[float]) -> Steps:
    """The steps of a plan's graph, taken by a plain loop with the plan applied."""
    task, net = graph.task, copy.deepcopy(graph.task.model)
    applied = graph.plan.apply(net)
    named = dict(net.named_parameters())
    loop = EagerLoop(graph.optimizer, {fqn: named[fqn] for fqn in graph.plan.tensors})
    losses = []
    for batch, lr in zip(batches, lrs, strict=True):
        net.train()
        loop.zero_grad()
        loss = task.loss(net, task.rebuild(batch))
        (loss / loop.micro_batches).backward()
        losses.append(float(loss.detach()))
        loop.step(lr)
    applied.undo()
    trained = {fqn: named[fqn].detach().clone() for fqn in graph.plan.tensors}
    for name, value in net.state_dict().items():
        if name not in trained:
            assert torch.equal(value, task.model.state_dict()[name]), f"{name} moved"
    with torch.no_grad():
        for fqn, value in loop.average.items():
            named[fqn].copy_(value)
        net.eval()
        return Steps(losses, trained, task.metric(net, task.rebuild(batches[0])))


class TestAppliedPlan(TrainingContract):
    """With momentum, weight decay and statistics of whole tensors, frozen channels stay to the bit."""

    cases = (
        *(Case("mobilenet", p, ("nesterov", "adamw")[i % 2]) for i, p in enumerate(PLANS)),
        Case("mobilenet", "half", "adamw"),
        *(Case("mobilenet", "half", o) for o in ("adafactor", "clip")),
    )
    plans = PLANS
    drawn_plans = 4

    def run(self, graph: TrainGraph, batches: Sequence[Batch], lrs: Sequence[float]) -> Steps:
        return applied_steps(graph, batches, lrs)


@pytest.mark.slow
class TestMoreAppliedPlans(TestAppliedPlan):
    cases = (
        *(Case(m, p, o) for m in ("mobilenet", "transformer", "tied", "unused") for p in PLANS
          for o in ("nesterov", "adamw")),
        *OPTIMIZER_CASES,
    )  # fmt: skip


# ---------------------------------------------------------------- around it


def plan_of(net: nn.Module, tensors: dict[str, Trained], **policy: object) -> Plan:
    shapes = {n: tuple(p.shape) for n, p in net.named_parameters()}
    return Plan(task="t", model=shapes, batch={}, optimizer={"name": "sgd"}, tensors=tensors, **policy)


PART = Trained(dim=1, channels=(1, 3))


def net_and_plan() -> tuple[nn.Sequential, Plan]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    return net, plan_of(net, {"0.weight": PART, "2.bias": Trained()})


def gradients(net: nn.Module) -> torch.Tensor:
    loss = net(torch.arange(8.0).reshape(2, 4) / 8).square().sum()
    loss.backward()
    return loss


def test_between_steps_the_model_is_whole_and_undo_gives_it_back() -> None:
    net, plan = net_and_plan()
    names, start = list(net.state_dict()), copy.deepcopy(net.state_dict())
    net[2].weight.requires_grad_(False)
    with plan.apply(net) as applied:
        assert [p.shape for p in applied.parameters()] == [(3, 4), (2,)]
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)
        for _ in range(3):
            optimizer.zero_grad(set_to_none=False)
            gradients(net)
            optimizer.step()
        # What is clipped and logged is the gradient of what learns.
        assert (net[0].weight.grad[:, [0, 2]] == 0).all()
        assert (net[0].weight.grad[:, [1, 3]] != 0).any()
        assert optimizer.state[net[0].weight]["exp_avg"].shape == (3, 2)
        assert net[0].bias.grad is None
        assert list(net.state_dict()) == names
    moved = {n for n, v in net.state_dict().items() if not torch.equal(v, start[n])}
    assert moved == {"0.weight", "2.bias"}
    assert torch.equal(net[0].weight[:, [0, 2]], start["0.weight"][:, [0, 2]])
    assert [p.requires_grad for p in net.parameters()] == [True, True, False, True]
    with plan.apply(net):  # and again
        gradients(net)


def test_a_closure_sees_the_whole_model() -> None:
    net, plan = net_and_plan()
    start = copy.deepcopy(net.state_dict())
    applied = plan.apply(net)
    optimizer = torch.optim.LBFGS(applied.parameters(), lr=0.1, max_iter=5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        return gradients(net)

    first = optimizer.step(closure).item()
    assert closure().item() < first
    assert torch.equal(net[0].weight[:, [0, 2]], start["0.weight"][:, [0, 2]])


def test_an_optimizer_that_steps_through_another_is_one_step() -> None:
    class Twice(torch.optim.SGD):
        def step(self, closure: object = None) -> None:
            super().step()
            super().step()

    net, plan = net_and_plan()
    start = copy.deepcopy(net.state_dict())
    applied = plan.apply(net)
    gradients(net)
    torch.optim.SGD(applied.parameters(), lr=0.0).step()  # so that SGD's own step is watched
    Twice(applied.parameters(), lr=0.1, weight_decay=0.1).step()
    assert net[0].weight.shape == (3, 4)
    assert torch.equal(net[0].weight[:, [0, 2]], start["0.weight"][:, [0, 2]])


def test_a_step_that_fails_leaves_a_model_that_can_be_used_and_saved() -> None:
    class Fails(torch.optim.SGD):
        def step(self, closure: object = None) -> None:
            raise KeyboardInterrupt

    net, plan = net_and_plan()
    applied = plan.apply(net)
    gradients(net)
    for use in (lambda: net(torch.ones(1, 4)), net.state_dict, applied.undo):
        with pytest.raises(KeyboardInterrupt):
            Fails(applied.parameters(), lr=0.1).step()
        use()
        assert net[0].weight.shape == (3, 4)


def test_gradients_of_rows_that_a_batch_names() -> None:
    net = nn.Sequential(nn.Embedding(5, 3, sparse=True))
    start = net[0].weight.detach().clone()
    applied = plan_of(net, {"0.weight": Trained(dim=0, channels=(1, 2))}).apply(net)
    net(torch.tensor([0, 1, 4])).sum().backward()
    torch.optim.SGD(applied.parameters(), lr=0.1).step()
    assert torch.equal(
        net[0].weight.detach() != start, torch.tensor([0, 1, 0, 0, 0]).bool()[:, None].expand(5, 3)
    )


@pytest.mark.parametrize("batch_norm", ["frozen", "batch"])
@pytest.mark.parametrize("dropout", [False, True])
def test_layers_are_in_the_plans_mode(batch_norm: str, dropout: bool) -> None:
    net = nn.Sequential(BatchNorms(), nn.Dropout())
    plan = plan_of(net, {"0.hidden.bias": Trained()}, batch_norm=batch_norm, dropout=dropout)
    data = [{"x": torch.zeros(1)}]
    task = pg.Task("t", net, lambda m, b: 0, lambda m, b: 0, data, data, batch_norm=batch_norm,
                   dropout=dropout)  # fmt: skip
    twin = copy.deepcopy(net)
    task.set_mode(training=True, net=twin)
    with plan.apply(net):
        net.train()
        net(torch.rand(4, 3, 8, 8))
        assert [m.training for m in net.modules()] == [m.training for m in twin.modules()]
        net.eval()
        net(torch.rand(4, 3, 8, 8))
        assert not any(m.training for m in net.modules())
    net.train()
    net(torch.rand(4, 3, 8, 8))
    assert all(m.training for m in net.modules())


def test_copies_are_models_of_their_own_and_nothing_outlives_the_model() -> None:
    net, plan = net_and_plan()
    applied = plan.apply(net)
    again = pickle.loads(pickle.dumps(copy.deepcopy(net)))
    optimizer = torch.optim.SGD(again.parameters(), lr=0.1, weight_decay=0.1)
    gradients(again)
    optimizer.step()
    assert (again[0].weight != net[0].weight).all()  # no plan is applied to it
    gone = weakref.ref(net)
    del net, applied, again, optimizer
    gc.collect()
    assert gone() is None


def test_refusals() -> None:
    net, plan = net_and_plan()
    with pytest.raises(PlanError, match="another model"):
        plan.apply(nn.Sequential(nn.Linear(4, 5)))
    with pytest.raises(PlanError, match="Pass the PyTorch model"):
        plan.apply("net")  # pyright: ignore[reportArgumentType]
    early = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    gradients(net)
    early.step()
    plan.apply(net)
    with pytest.raises(PlanError, match="already"):
        plan.apply(net)
    gradients(net)
    with pytest.raises(PlanError, match=r"Make the optimizer after plan\.apply"):
        early.step()
    assert net[0].weight.shape == (3, 4)


def test_weights_under_two_names_and_tensors_that_no_plan_knows() -> None:
    net = copy.deepcopy(built("tied").task.model)
    net.register_parameter("more", nn.Parameter(torch.ones(2)))
    plan = Plan.of(built("tied"), {"embedding.weight": Trained(dim=0, channels=(2, 5))})
    applied = plan.apply(net)
    assert len(applied.parameters()) == 1
    assert not net.more.requires_grad
