"""Batch statistics, dropout and moving buffers on every target: equal eager PyTorch, masks included."""

from __future__ import annotations

import copy
from pathlib import Path

import models
import numpy as np
import pytest
import torch
from oracle import PLANS, Case, built
from policies import BATCH_NORM, DROPOUT
from test_target_contract import TargetContract

import pockgraph as pg

CASES = tuple(
    Case(model, plan, ("momentum", "adamw")[i % 2])
    for i, (model, plan) in enumerate(
        [*((m, p) for m in BATCH_NORM for p in ("full", "half")), *((m, "full") for m in DROPOUT),
         ("batch_norms", "head"), ("dropping", "head")]
    )
)  # fmt: skip


# Each network goes to either target, whole to one and half of it to the other.
TURNS = [CASES[i] for i in (0, 3, 4, 6, 8, 9)], [CASES[i] for i in (1, 2, 5, 7, 10)]


class TestTorch(TargetContract):
    target = "torch"
    cases = TURNS[0]
    test_any_plan_equals_eager_pytorch = None  # drawn in tests/engine


class TestOpenVINO(TestTorch):
    target = "openvino"
    cases = TURNS[1]


@pytest.mark.slow
class TestTorchOtherCells(TestTorch):
    cases = TURNS[1]


@pytest.mark.slow
class TestOpenVINOOtherCells(TestOpenVINO):
    cases = TURNS[0]


@pytest.mark.parametrize("target", ["torch", "openvino"])
def test_running_statistics_are_merged_into_the_module(target: str, tmp_path: Path) -> None:
    graph, task = built("batch_norms"), models.zoo("batch_norms")
    artifact = pg.compile(graph, PLANS["head"](graph), target=target, out=tmp_path / "out")
    assert artifact.manifest.batch_norm == artifact.plan.batch_norm == "batch"
    trainer = artifact.trainer()
    batches = [{k: v.numpy() for k, v in b.items()} for b in task.train]
    for batch in batches:
        trainer.step(batch, lr=0.1)
    net = copy.deepcopy(task.model)
    artifact.merge_into(net, trainer)
    assert int(net.norm2.num_batches_tracked) == 3  # pyright: ignore
    assert not torch.equal(net.norm1.running_mean, task.model.norm1.running_mean)  # pyright: ignore
    with torch.no_grad():
        expected = task.metric(net.eval(), next(iter(task.train)))
    np.testing.assert_allclose(trainer.evaluate(batches[:1]).values, expected.numpy(), rtol=1e-5)
