"""Compiled artefacts, run by a Trainer on every target, equal eager PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from models import ZOO, zoo
from oracle import (
    COVERING_CASES,
    OPTIMIZER_CASES,
    OPTIMIZERS,
    PLANS,
    SMALL_OPTIMIZER_CASES,
    Case,
    TrainingContract,
    built,
)
from truth import Steps

import pockgraph as pg
from pockgraph.task.batch import Batch
from pockgraph.train_graph import TrainGraph


class TargetContract(TrainingContract):
    target: ClassVar[str]
    options: ClassVar[Mapping[str, str]] = {}
    cases: Sequence[Case] = COVERING_CASES + OPTIMIZER_CASES

    def run(self, graph: TrainGraph, batches: Sequence[Batch], lrs: Sequence[float]) -> Steps:
        with tempfile.TemporaryDirectory() as folder:
            artifact = pg.compile(
                graph, target=self.target, out=Path(folder) / "out", options=self.options, parity=False
            )
            trainer = artifact.trainer(allow_native_code=bool(artifact.manifest.native_code))
            arrays = [{k: v.numpy() for k, v in b.items()} for b in batches]
            losses = [trainer.step(b, lr=lr).loss for b, lr in zip(arrays, lrs, strict=True)]
            weights = {fqn: torch.from_numpy(w) for fqn, w in trainer.state().items()}
            metric = torch.from_numpy(np.asarray(trainer.evaluate([arrays[0]]).values))
            return Steps(losses, weights, metric)


# In the fast suite each cell goes to one target; each target meets every model, plan and optimizer of these.
TARGETS = ("torch", "onnx", "openvino")
TURNS: dict[str, list[Case]] = {target: [] for target in TARGETS}
for at, case in enumerate(COVERING_CASES):
    model, plan = divmod(at, len(PLANS))
    TURNS[TARGETS[(model + plan) % len(TARGETS)]].append(case)
FURTHER = {target: SMALL_OPTIMIZER_CASES[i :: len(TARGETS)] for i, target in enumerate(TARGETS)}


def others(target: str) -> tuple[Case, ...]:
    """What is left for the slow suite."""
    return (*(c for c in COVERING_CASES if c not in TURNS[target]), *OPTIMIZER_CASES)


class TestTorch(TargetContract):
    target = "torch"
    cases = (*TURNS["torch"], *FURTHER["torch"])
    drawn_plans = 4  # the other cells are compared with more, and so is the graph itself


class TestONNX(TargetContract):
    target = "onnx"
    cases = (*TURNS["onnx"], *FURTHER["onnx"])
    drawn_plans = 4


class TestOpenVINO(TargetContract):
    target = "openvino"
    cases = (*TURNS["openvino"], *FURTHER["openvino"])
    drawn_plans = 4


@pytest.mark.slow
class TestTorchOtherCells(TargetContract):
    target = "torch"
    cases = others("torch")


@pytest.mark.slow
class TestONNXOtherCells(TargetContract):
    target = "onnx"
    cases = others("onnx")


@pytest.mark.slow
class TestOpenVINOOtherCells(TargetContract):
    target = "openvino"
    cases = others("openvino")


def test_every_target_meets_every_model_plan_and_optimizer() -> None:
    for cases in TURNS.values():
        assert {c.model for c in cases} == {*ZOO}
        assert {c.plan for c in cases} == {*PLANS}
        assert {c.optimizer for c in cases} == {*OPTIMIZERS}


@pytest.mark.parametrize("target", ["torch", "openvino"])
@pytest.mark.parametrize("name", ["mobilenet", "tied", "unused"])
def test_trained_tensors_are_merged_into_the_module(name: str, target: str, tmp_path: Path) -> None:
    """Into a fresh model: the trained tensors change, everything else stays bit for bit."""
    graph = built(name)
    artifact = pg.compile(graph, PLANS["half"](graph), target=target, out=tmp_path / "out")
    trainer = artifact.trainer()
    batch = {k: v.numpy() for k, v in next(iter(zoo(name).train)).items()}
    trainer.step(batch, lr=0.1)
    net = ZOO[name]().model
    before = {k: v.clone() for k, v in net.state_dict().items()}
    artifact.merge_into(net, trainer)
    moved = {k for k, v in net.named_parameters() if not torch.equal(v, before[k])}
    assert moved == set(artifact.plan.tensors)
    task = zoo(name)
    with torch.no_grad():
        expected = task.metric(net, next(iter(task.eval)))
    values = trainer.evaluate([batch]).values
    np.testing.assert_allclose(values, expected.numpy(), rtol=1e-5)
