"""Pruned graphs, run operator by operator without any target, equal eager PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from oracle import ALL_CASES, COVERING_CASES, OPTIMIZER_CASES, Case, TrainingContract, run_steps
from truth import Steps

from pockgraph import passes
from pockgraph.task.batch import Batch
from pockgraph.train_graph import TrainGraph


class TestPruned(TrainingContract):
    """The graph as pruning leaves it."""

    cases: Sequence[Case] = COVERING_CASES + OPTIMIZER_CASES

    def run(self, graph: TrainGraph, batches: Sequence[Batch], lrs: Sequence[float]) -> Steps:
        return run_steps(graph, graph, graph.evaluation(), batches, lrs)


@pytest.mark.slow
class TestPrunedWithEveryOptimizer(TestPruned):
    cases = tuple(c for c in ALL_CASES if c not in COVERING_CASES)
    test_any_plan_equals_eager_pytorch = None  # drawn above


@pytest.mark.slow
class TestAfterPasses(TrainingContract):
    """The graph that targets start from; in the fast suite they run its cells."""

    cases = COVERING_CASES

    def run(self, graph: TrainGraph, batches: Sequence[Batch], lrs: Sequence[float]) -> Steps:
        return run_steps(graph, passes.run(graph), passes.run(graph.evaluation()), batches, lrs)
