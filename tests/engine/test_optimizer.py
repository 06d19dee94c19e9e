"""Optimizers as graph nodes against torch.optim, alone and on a tensor of random gradients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import zoo
from oracle import OPTIMIZERS, PLANS, TOLERANCE, built, feed, next_state, torch_optimizer
from torch import fx

import pockgraph as pg
from pockgraph.errors import TaskError
from pockgraph.graph import Builder, Graph, Role, Slot, meta_like, output_args
from pockgraph.optimizer import Optimizer, optimizer_from_dict

aten = torch.ops.aten
SHAPE = (3, 4)


def update_graph(optimizer: Optimizer) -> Graph:
    """One tensor, its gradient from the batch, and the update alone."""
    slots = [Slot(Role.BATCH, "grad", SHAPE, "float32"), Slot(Role.LR, "", (), "float32"),
             Slot(Role.PARAM, "p", SHAPE, "float32", trained=True)]  # fmt: skip
    slots += [Slot(Role.OPT_STATE, "p", SHAPE, "float32", key=k) for k in optimizer.tensor_state]
    slots += [Slot(Role.OPT_STATE, "", (), "float32", key=k) for k in optimizer.scalar_state]
    graph = fx.Graph()
    nodes = {}
    values = {}
    for slot in slots:
        nodes[slot.name] = graph.placeholder(slot.name.replace(":", "_"))
        nodes[slot.name].meta["val"] = meta_like(torch.empty(slot.shape))
        values[slot.name] = torch.full(slot.shape, optimizer.scalar_state.get(slot.key, 0.0))
    b = Builder(graph, "update")
    scalars = {k: nodes[f"opt_state:{k}"] for k in optimizer.scalar_state}
    advanced = {**scalars, **optimizer.advance(b, scalars)}
    states = {k: nodes[f"opt_state:p:{k}"] for k in optimizer.tensor_state}
    new, new_state = optimizer.update(
        b, nodes["trained:p"], nodes["batch:grad"], states, advanced, nodes["lr"]
    )
    outputs = {Slot(Role.NEW_PARAM, "p", SHAPE, "float32"): new}
    outputs |= {Slot(Role.NEW_OPT_STATE, "p", SHAPE, "float32", key=k): v for k, v in new_state.items()}
    outputs |= {Slot(Role.NEW_OPT_STATE, "", (), "float32", key=k): advanced[k] for k in scalars}
    graph.output(tuple(outputs.values()))
    return Graph(graph, tuple(slots), tuple(outputs), values)


def optimizers() -> st.SearchStrategy[Optimizer]:
    decay = st.sampled_from([0.0, 1e-4, 0.1])
    sgd = st.builds(pg.SGD, momentum=st.sampled_from([0.0, 0.5, 0.9]), weight_decay=decay)
    nesterov = st.builds(
        pg.SGD, momentum=st.sampled_from([0.5, 0.9]), weight_decay=decay, nesterov=st.just(True)
    )
    betas = st.tuples(st.sampled_from([0.0, 0.8, 0.9]), st.sampled_from([0.9, 0.999]))
    adamw = st.builds(pg.AdamW, betas=betas, eps=st.sampled_from([1e-8, 1e-3]), weight_decay=decay)
    return st.one_of(sgd, nesterov, adamw)


def gradients(steps: int) -> Iterator[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    for _ in range(steps):
        yield torch.randn(SHAPE, generator=g)


def in_graph(optimizer: Optimizer, start: torch.Tensor, lrs: list[float]) -> torch.Tensor:
    graph = update_graph(optimizer)
    values: dict[str, torch.Tensor] = {**graph.values, "trained:p": start}
    for grad, lr in zip(gradients(len(lrs)), lrs):
        values |= next_state(graph, feed(graph, values, {"grad": grad}, lr))
    return values["trained:p"]


def in_torch(optimizer: Optimizer, start: torch.Tensor, lrs: list[float]) -> torch.Tensor:
    p = start.clone().requires_grad_()
    stepper = torch_optimizer(optimizer, [p])
    for grad, lr in zip(gradients(len(lrs)), lrs):
        p.grad = grad.to(p.dtype)
        stepper.param_groups[0]["lr"] = lr
        stepper.step()
    return p.detach()


@given(optimizers(), st.lists(st.sampled_from([0.0, 1e-3, 0.1]), min_size=1, max_size=20))
def test_updates_are_torch_optims(optimizer: Optimizer, lrs: list[float]) -> None:
    start = torch.linspace(-1, 1, 12).reshape(SHAPE)
    exact = in_torch(optimizer, start.double(), lrs)
    error = (in_graph(optimizer, start, lrs).double() - exact).norm()
    eager_error = (in_torch(optimizer, start, lrs).double() - exact).norm()
    t = TOLERANCE[torch.float32]
    allowed = t.update_ratio * (exact - start).norm() + t.referee_factor * eager_error
    assert error <= allowed + len(lrs) * t.rounding_ratio * start.norm()


def test_a_thousand_steps_of_adamw_stay_exact() -> None:
    """The running bias corrections do not drift from `1 - beta**t`."""
    graph = update_graph(pg.AdamW())
    values = dict(graph.values)
    for _ in range(1000):
        values |= next_state(graph, feed(graph, values, {"grad": torch.ones(SHAPE)}, 0.0))
    assert float(values["opt_state:bias_correction2"]) == pytest.approx(1 - 0.999**1000, rel=1e-5)
    assert float(values["opt_state:bias_correction1"]) == pytest.approx(1 - 0.9**1000, rel=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_learning_rate_of_zero_moves_nothing(name: str) -> None:
    start = torch.linspace(-1, 1, 12).reshape(SHAPE)
    assert torch.equal(in_graph(OPTIMIZERS[name], start, [0.0, 0.0]), start)


def test_defaults_are_torch_optims() -> None:
    for optimizer, kind in ((pg.SGD(), torch.optim.SGD), (pg.AdamW(), torch.optim.AdamW)):
        theirs = kind([torch.zeros(1)], lr=optimizer.lr).defaults
        options = {k: v for k, v in vars(optimizer).items() if k != "name"}
        assert options == {k: theirs[k] for k in options}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("plan", ["head", "half"])
def test_state_exists_for_what_is_trained_only(plan: str, optimizer: str) -> None:
    graph = built("mobilenet", optimizer)
    small = graph.prune(PLANS[plan](graph))
    rule = OPTIMIZERS[optimizer]
    trained = {s.fqn: s.shape for s in small.inputs if s.trained}
    assert trained.keys() == small.plan.tensors.keys()
    states = [s for s in small.inputs if s.role is Role.OPT_STATE]
    expected = {(fqn, key, shape) for fqn, shape in trained.items() for key in rule.tensor_state}
    expected |= {("", key, ()) for key in rule.scalar_state}
    assert {(s.fqn, s.key, s.shape) for s in states} == expected
    assert all(not small.values[s.name].any() for s in states)
    nexts = {(s.fqn, s.key, s.shape) for s in small.outputs if s.role is Role.NEW_OPT_STATE}
    assert nexts == expected


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_building_with_an_optimizer_and_swapping_it_in_agree(name: str) -> None:
    """The other tests capture each model once and swap the optimizer."""
    assert pg.build(zoo("mlp"), OPTIMIZERS[name]).code() == built("mlp", name).code()


def test_the_optimizer_is_inside_the_graph() -> None:
    """Trap 4: an update outside the graph cannot be reordered. Here each stands where its gradient
    is made, before the gradients of earlier layers exist, so that no two gradients live at once."""
    graph = built("mlp", "adamw")
    updates = [i for i, n in enumerate(graph.nodes()) if n.meta["phase"] == "update" and n.meta["layer"]]
    backward = [i for i, n in enumerate(graph.nodes()) if n.meta["phase"] == "backward"]
    assert min(updates) < max(backward)
    order = {n: i for i, n in enumerate(graph.fx.nodes)}
    new = {s.fqn: order[n] for s, n in zip(graph.outputs, output_args(graph.fx)) if s.role is Role.NEW_PARAM}
    mms = [order[n] for n in graph.nodes("backward") if n.target is aten.mm.default]
    assert new["layers.4.weight"] < mms[-1]
    assert new["layers.4.weight"] < new["layers.2.weight"] < new["layers.0.weight"]


# ---------------------------------------------------------------- descriptions


@given(optimizers())
def test_an_optimizer_survives_a_plan_file(optimizer: Optimizer) -> None:
    assert optimizer_from_dict(json.loads(json.dumps(optimizer.to_dict()))) == optimizer


@pytest.mark.parametrize(
    ("described", "says"),
    [
        ({"name": "sdg"}, ["'sdg'", "Did you mean 'sgd'"]),
        ({}, ["sgd", "adamw"]),
        ({"name": "sgd", "momentun": 0.9}, ["momentun", "Did you mean 'momentum'"]),
    ],
)
def test_an_unknown_description_is_refused(described: dict[str, Any], says: list[str]) -> None:
    with pytest.raises(TaskError) as caught:
        optimizer_from_dict(described)
    assert all(s in str(caught.value) for s in says)


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(TaskError, match="needs a momentum"):
        pg.SGD(nesterov=True)
