"""Batch norm with batch statistics: gradients and running statistics equal eager PyTorch's."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import models
import policies
import pytest
import torch
from oracle import PLANS, Case, TrainingContract, assert_equal_gradients, built, run_steps
from policies import BATCH_NORM
from torch import nn
from truth import Steps

import pockgraph as pg
from pockgraph import passes
from pockgraph.errors import CaptureError, PlanError, TaskError
from pockgraph.ir.graph import Role, aten
from pockgraph.profile.profiler import profile_of
from pockgraph.task.batch import Batch
from pockgraph.train_graph import TrainGraph


class TestBatchStatistics(TrainingContract):
    drawn_plans = 4  # of a plain step there are more: tests/train_graph/test_pruned_step.py
    cases = tuple(
        Case(model, plan, optimizer)
        for (model, plan), optimizer in zip(
            itertools.product(BATCH_NORM, PLANS), itertools.cycle(("sgd", "momentum", "adamw"))
        )
    )

    def run(self, graph: TrainGraph, batches: Sequence[Batch], lrs: Sequence[float]) -> Steps:
        return run_steps(graph, passes.run(graph), passes.run(graph.evaluation()), batches, lrs)


@pytest.mark.parametrize("name", BATCH_NORM)
def test_gradients_are_autograds(name: str) -> None:
    assert_equal_gradients(built(name).gradients, models.zoo(name))


@pytest.mark.parametrize("name", BATCH_NORM)
def test_the_profile_predicts_every_plan_to_the_byte(name: str) -> None:
    graph = built(name)
    profile = profile_of(graph)
    rng = random.Random(name)
    for _ in range(6):
        rows = rng.sample(list(graph.tensors), rng.randint(1, len(graph.tensors)))
        choice = {r.fqn: rng.choice((1.0, 0.5)) if r.channel_dim is not None else 1.0 for r in rows}
        plan, figures = profile.plan(choice), profile.figures(choice)
        assert plan.batch_norm == "batch"
        small = graph.prune(plan)
        assert figures.peak_bytes == small.peak_bytes, choice
        assert figures.saved_bytes == small.timeline.saved_bytes, choice
        assert figures.extra_bytes == small.extra_bytes, choice
        assert figures.flops == small.flops, choice


def test_a_layer_below_the_trained_tensors_follows_the_policy_too() -> None:
    """As in PyTorch, where `requires_grad` has no say in a layer's mode."""
    graph = built("batch_norms")
    small = graph.prune(pg.Plan.head(graph))
    new = {s.fqn for s in small.outputs if s.role is Role.NEW_BUFFER}
    assert {"norm1.running_mean", "norm1.running_var", "norm1.num_batches_tracked"} <= new
    assert {s.fqn for s in small.state_slots if s.role is Role.BUFFER} == new


def test_a_bias_of_a_norm_needs_no_saved_activation() -> None:
    """The three gradients of the backward are dropped one by one."""
    graph = built("batch_resnet")
    last = "layer1.0.downsample.1"
    bias = graph.prune(pg.Plan.of(graph, {f"{last}.bias": 1.0}))
    weight = graph.prune(pg.Plan.of(graph, {f"{last}.weight": 1.0}))
    assert not any(n.target is aten.sub.Tensor for n in bias.nodes("backward"))
    assert bias.timeline.saved_bytes < weight.timeline.saved_bytes


def test_frozen_statistics_stay_the_default() -> None:
    graph = built("mobilenet")
    assert graph.plan.batch_norm == "frozen"
    assert not any(s.role is Role.NEW_BUFFER for s in graph.outputs)
    assert pg.Plan.from_json(graph.plan.to_json().replace(' "batch_norm": "frozen",\n', "")) == graph.plan


def test_the_evaluation_graph_reads_the_running_statistics_as_state() -> None:
    evaluation = passes.run(built("batch_resnet").evaluation())
    state = {s.name for s in evaluation.state_slots if s.role is Role.BUFFER}
    assert state == {
        f"buffer:{n}.{k}"
        for n, m in models.zoo("batch_resnet").model.named_modules()
        if isinstance(m, nn.BatchNorm2d)
        for k in ("running_mean", "running_var")
    }


def test_the_model_keeps_its_mode_and_its_momentum() -> None:
    task = policies.batch_norms()
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    pg.build(task)
    assert not any(m.training for m in task.model.modules())
    assert task.model.norm2.momentum is None
    assert all(torch.equal(before[k], v) for k, v in task.model.state_dict().items())


# ---------------------------------------------------------------- refused


def test_an_unknown_policy_is_refused_with_a_suggestion() -> None:
    batches = models.vectors()
    with pytest.raises(TaskError, match=r"'bach' is no policy.*Did you mean 'batch'"):
        policies._task("wrong", models.MLP(), batches, batch_norm="bach")


def test_a_plan_of_the_other_policy_is_refused() -> None:
    graph = built("batch_resnet")
    plan = pg.Plan.head(graph).model_copy(update={"batch_norm": "frozen"})
    with pytest.raises(PlanError, match="batch_norm='frozen', this graph was built with batch_norm='batch'"):
        graph.prune(plan)


def test_a_plan_file_with_an_unknown_policy_is_refused() -> None:
    text = built("batch_resnet").plan.to_json().replace('"batch_norm": "batch"', '"batch_norm": "both"')
    with pytest.raises(PlanError, match="batch_norm"):
        pg.Plan.from_json(text)


def test_an_average_of_all_batches_that_moves_twice_a_step_is_refused() -> None:
    net = policies.Shared()
    net.norm.momentum = None  # pyright: ignore
    with pytest.raises(TaskError, match=r"'norm' \(momentum=None\) runs more than once"):
        pg.build(policies._task("twice", net, models.vectors(), batch_norm="batch"))


def test_one_value_a_channel_has_no_statistics() -> None:
    batches = [{k: v[:1] for k, v in b.items()} for b in models.vectors()]
    net = policies.Shared()
    with pytest.raises(CaptureError, match="more than 1 value per channel"):
        pg.build(
            pg.Task(
                "single",
                net,
                lambda net, b: net(b["x"]).square().mean(),
                lambda net, b: net(b["x"]).sum(1),
                batches,
                batches,
                batch_norm="batch",
            )
        )
