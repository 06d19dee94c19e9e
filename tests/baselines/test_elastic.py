"""ElasticTrainer's selection against every selection there is, and its scores against plain PyTorch."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest
import torch
from models import ZOO
from oracle import built
from torch import nn

import pockgraph as pg
from pockgraph.baselines import elastic as room
from pockgraph.baselines.elastic import elastic
from pockgraph.baselines.importance import importance, trained_head
from pockgraph.contribution.data import fresh_values
from pockgraph.errors import BudgetError, PlanError
from pockgraph.plan import presets
from pockgraph.profile import Profile, TimeModel
from pockgraph.profile.operator_cost import WORK_KINDS
from pockgraph.profile.profiler import profile_of


def profiled(name: str) -> Profile:
    return profile_of(built(name))


def drawn(profile: Profile, seed: int) -> dict[str, float]:
    draw = random.Random(seed)
    return {t.fqn: draw.random() for t in profile.tensors}


def between(profile: Profile, share: float) -> pg.Budget:
    head = profile.figures(dict.fromkeys(profile.head, 1.0)).peak_bytes
    full = profile.figures({t.fqn: 1.0 for t in profile.tensors}).peak_bytes
    return pg.Budget(peak_bytes=round(head + share * (full - head)))


@pytest.mark.parametrize("name", ["mlp", "unet"])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_selection_within_the_time_is_worth_more(name: str, seed: int) -> None:
    profile = profiled(name)
    scores = {f: v for f, v in drawn(profile, seed).items() if f not in profile.head}
    selections = room._Selections(profile, scores)
    place = {fqn: n for n, fqn in enumerate(selections.order)}

    def time(chosen: tuple[str, ...]) -> int:
        return max((selections.way[place[f]] for f in chosen), default=0) + sum(
            selections.own[place[f]] for f in chosen
        )

    every = [c for n in range(len(scores) + 1) for c in itertools.combinations(scores, n)]
    for limit in range(0, selections.buckets + 1, selections.buckets // 7):
        best = max(sum(scores[f] for f in chosen) for chosen in every if time(chosen) <= limit)
        got = tuple(selections.best(limit))
        assert time(got) <= limit
        assert sum(scores[f] for f in got) == pytest.approx(best)


@pytest.mark.parametrize("name", ZOO)
def test_plans_keep_to_the_budget_and_grow_with_it(name: str) -> None:
    profile = profiled(name)
    scores = drawn(profile, 0)
    worth = []
    for share in (0.0, 0.4, 0.8, 1.0):
        budget = between(profile, share)
        plan = elastic(profile, scores, budget)
        assert plan.predicted["peak_bytes"] <= (budget.peak_bytes or 0)
        assert set(profile.head) <= set(plan.tensors)
        worth.append(sum(scores[f] for f in plan.tensors))
    assert worth == sorted(worth)
    assert worth[-1] == pytest.approx(sum(scores.values()))  # all of it, where all fits


def test_tensors_that_would_raise_the_loss_stay_frozen() -> None:
    profile = profiled("mlp")
    scores = dict.fromkeys(drawn(profile, 0), 1.0) | {"layers.2.weight": -1.0, "layers.2.bias": 0.0}
    plan = elastic(profile, scores, between(profile, 1))
    assert {"layers.0.weight", "layers.0.bias", *profile.head} == set(plan.tensors)


def test_a_limit_of_time_needs_a_model_of_time_and_is_kept() -> None:
    profile = profiled("mlp")
    time = TimeModel("openvino", 1.0, (1e-6,) * len(WORK_KINDS), 0.0, 3)
    timed = dataclasses.replace(profile, time=time)
    limit = pg.Budget(step_ms=timed.figures(dict.fromkeys(timed.head, 1.0)).step_ms)
    assert set(elastic(timed, drawn(profile, 0), limit).tensors) == set(profile.head)
    with pytest.raises(BudgetError, match="step_ms"):
        elastic(profile, drawn(profile, 0), limit)


def test_a_budget_that_not_even_the_head_meets_is_refused() -> None:
    with pytest.raises(BudgetError, match="Raise it"):
        elastic(profiled("mlp"), {}, pg.Budget(peak_bytes=1))


def test_a_name_that_is_none_is_refused() -> None:
    profile = profiled("mlp")
    with pytest.raises(PlanError, match=r"layers\.2\.wieght.*layers\.2\.weight"):
        elastic(profile, {"layers.2.wieght": 1.0}, between(profile, 1))


@pytest.mark.parametrize("optimizer", [pg.SGD(lr=0.1, momentum=0.9), pg.AdamW(lr=0.01, weight_decay=0.1)])
def test_the_scores_are_those_of_a_step_in_pytorch(optimizer: pg.SGD | pg.AdamW) -> None:
    task = ZOO["mlp"]()
    graph = pg.build(task, optimizer)
    head = {"layers.4.weight": torch.full((4, 8), 0.1)}
    batches = list(task.train)[:2]
    found = importance(graph, batches, values=head)
    expected = dict.fromkeys(found, 0.0)
    for batch in batches:
        net = ZOO["mlp"]().model
        net.load_state_dict(task.model.state_dict() | head)
        parameters = dict(net.named_parameters())
        before = {k: p.detach().clone() for k, p in parameters.items()}
        settings = {"lr": optimizer.lr, "weight_decay": optimizer.weight_decay}
        made: torch.optim.Optimizer
        if isinstance(optimizer, pg.SGD):
            made = torch.optim.SGD(parameters.values(), momentum=0.9, **settings)
        else:
            made = torch.optim.AdamW(parameters.values(), **settings)
        task.loss(net, batch).backward()
        made.step()
        for fqn, p in parameters.items():
            if fqn in expected:
                assert p.grad is not None
                expected[fqn] -= float((p.grad * (p.detach() - before[fqn])).sum())
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_micro_batches_are_scored_as_updates() -> None:
    task = ZOO["mlp"]()
    one, four = (pg.build(task, pg.SGD(lr=0.1, accumulate=n)) for n in (1, 4))
    batches = list(task.train)[:1]
    assert importance(four, batches) == pytest.approx(importance(one, batches))


def test_a_probe_without_batches_or_with_an_unknown_value_is_refused() -> None:
    graph = built("mlp")
    with pytest.raises(PlanError, match="at least one"):
        importance(graph, [])
    with pytest.raises(PlanError, match="no trainable tensor"):
        importance(graph, graph.task.train, values={"head.weight": torch.zeros(1)})


def test_the_model_is_left_as_it_was() -> None:
    task = ZOO["mobilenet"]()
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    importance(pg.build(task, pg.SGD(lr=0.1)), list(task.train)[:1])
    assert isinstance(task.model, nn.Module)
    assert all(torch.equal(v, before[k]) for k, v in task.model.state_dict().items())


def test_the_head_is_trained_a_little_before_the_probe() -> None:
    task = ZOO["mlp"]()
    graph = pg.build(task, pg.SGD(lr=0.1))
    assert trained_head(graph) == {}  # nothing of it is fresh
    fresh = pg.build(dataclasses.replace(ZOO["mlp"](), fresh=("layers.4.*",)), pg.SGD(lr=0.1))
    head = trained_head(fresh, steps=3)
    assert set(head) == set(presets.head(graph))
    drawn_anew = fresh_values(fresh.task, 0)
    assert all(not torch.equal(head[fqn], drawn_anew[fqn]) for fqn in head)
    assert importance(fresh, list(task.train)[:1], values=head)
