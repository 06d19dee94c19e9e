"""Dropout: a seed decides the masks; with them, eager PyTorch does the same; and they look random."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence

import models
import numpy as np
import policies
import pytest
import torch
import torch.nn.functional as F
from oracle import PLANS, Case, TrainingContract, assert_equal_gradients, built, run_steps
from policies import DROPOUT
from torch import Tensor, fx, nn
from truth import Steps

import pockgraph as pg
from pockgraph import passes
from pockgraph.errors import CaptureError, TaskError
from pockgraph.ir.graph import Graph, Role, Slot, aten
from pockgraph.parity.seeded_dropout import dropped as mask
from pockgraph.passes.dropout_masks import DropoutMasks
from pockgraph.prng import step_keys
from pockgraph.profile.profiler import profile_of
from pockgraph.task.batch import Batch
from pockgraph.train_graph import TrainGraph


class TestDropout(TrainingContract):
    drawn_plans = 4  # of a plain step there are more: tests/train_graph/test_pruned_step.py
    cases = tuple(
        Case(model, plan, optimizer)
        for (model, plan), optimizer in zip(
            itertools.product(DROPOUT, PLANS), itertools.cycle(("sgd", "momentum", "adamw"))
        )
    )

    def run(self, graph: TrainGraph, batches: Sequence[Batch], lrs: Sequence[float]) -> Steps:
        return run_steps(graph, passes.run(graph), passes.run(graph.evaluation()), batches, lrs)


@pytest.mark.parametrize("name", DROPOUT)
def test_gradients_are_autograds(name: str) -> None:
    assert_equal_gradients(built(name).gradients, models.zoo(name))


def test_the_profile_predicts_plans_to_the_byte() -> None:
    graph = built("dropping")
    profile = profile_of(graph)
    for plan_of in PLANS.values():
        plan = plan_of(graph)
        small, figures = graph.prune(plan), profile.figures(profile.ratios_of(plan))
        assert (figures.peak_bytes, figures.extra_bytes, figures.flops) == (
            small.peak_bytes, small.extra_bytes, small.flops
        )  # fmt: skip


def test_only_a_byte_an_element_is_kept_for_the_backward_pass() -> None:
    graph = built("dropping").gradients
    fills = [n for n in graph.nodes("backward") if n.target is aten.masked_fill.Scalar]
    assert len(fills) >= 7  # channels, activations, and attention twice: every site has a backward
    assert all(n.args[1].meta["val"].dtype == torch.bool for n in fills)  # pyright: ignore


# ---------------------------------------------------------------- how random


def mask_graph(shape: tuple[int, ...], p: float, sites: int = 1) -> Graph:
    """`sites` dropout calls on ones of `shape`."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(shape, device="meta")
    results = []
    for _ in range(sites):
        node = graph.call_function(aten.native_dropout.default, (x, p, True))
        node.meta = {
            "val": (x.meta["val"], x.meta["val"].bool()),
            "phase": "forward",
            "layer": "",
            "source": "",
        }
        got = graph.call_function(operator.getitem, (node, 0))
        got.meta = {**node.meta, "val": x.meta["val"]}
        results.append(got)
    graph.output(tuple(results))
    outputs = tuple(Slot(Role.GRAD, str(i), shape, "float32") for i in range(sites))
    return DropoutMasks()(Graph(graph, (Slot(Role.BATCH, "x", shape, "float32"),), outputs, {}))


def dropped(graph: Graph, seed: int, step: int) -> Tensor:
    """Bool [sites, *shape]."""
    ones = torch.ones(graph.inputs[0].shape)
    feeds = {Role.BATCH: lambda s: ones, Role.SEED: lambda s: torch.from_numpy(step_keys(seed, step)),
             Role.CONST: lambda s: graph.values[s.name]}  # fmt: skip
    outputs = fx.Interpreter(nn.Module(), graph=graph.fx).run(*(feeds[s.role](s) for s in graph.inputs))
    return torch.stack(outputs) == 0


@pytest.mark.parametrize("shape", [(5,), (3, 7), (2, 3, 4, 5), (1, 1, 1)])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_masks_are_the_references(shape: tuple[int, ...], p: float) -> None:
    """Float32 arithmetic loses nothing: 64-bit integers give the same."""
    got = dropped(mask_graph(shape, p, 2), 3, 4)
    for site in range(2):
        assert torch.equal(got[site], mask(site, shape, p, step_keys(3, 4)))


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_masks_have_the_statistics_of_random_ones(p: float) -> None:
    """Rates and correlations between elements, rows, layers, steps and seeds are those of coin tosses."""
    graph = mask_graph((96, 160), p, 4)
    runs = [dropped(graph, seed, step) for seed, step in itertools.product(range(2), range(6))]
    centred = (torch.stack(runs).double() - p) / (p * (1 - p)) ** 0.5  # [run, site, row, column]
    count = centred.numel()
    assert abs(centred.mean()) * count**0.5 < 4
    for dims in ((2, 3), (3,), (2,), (0,)):  # rate of a mask, a row, a column, and of one place over time
        size = math.prod(centred.shape[d] for d in dims)
        z = centred.mean(dims) * size**0.5
        assert abs(z.square().mean() - 1) < 6 * (2 / z.numel()) ** 0.5, dims
    for dim, lag in itertools.product(range(4), (1, 2, 3)):
        a, b = (centred.narrow(dim, s, centred.shape[dim] - lag) for s in (0, lag))
        assert abs((a * b).mean()) * a.numel() ** 0.5 < 4.5, (dim, lag)
    pairs = torch.einsum("nsrc,nstc->nsrt", centred, centred).triu(1) / centred.shape[3] ** 0.5
    rows = pairs[..., *torch.triu_indices(96, 96, 1)]
    assert abs(rows.square().mean() - 1) < 0.05  # no two rows know of each other, in one mask
    assert abs(rows.mean(0).square().mean() * len(runs) - 1) < 0.05  # or in all together


def test_seeds_steps_and_layers_differ_and_repeat() -> None:
    graph = mask_graph((16, 32), 0.5, 2)
    first = dropped(graph, 0, 0)
    assert torch.equal(first, dropped(graph, 0, 0))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, dropped(graph, 0, 1))
    assert not torch.equal(first, dropped(graph, 1, 0))
    assert len({step_keys(s, t).tobytes() for s in range(30) for t in range(30)}) == 900
    assert step_keys(0, 0).dtype == np.float32


# ---------------------------------------------------------------- refused


def test_a_policy_that_is_no_bool_is_refused() -> None:
    with pytest.raises(TaskError, match=r"dropout=0.5 must be True or False"):
        policies._task("rate", models.MLP(), models.vectors(), dropout=0.5)


class AlwaysDropping(models.MLP):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.5))  # the training flag is missing


class Noisy(models.MLP):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.randn(x.shape))


@pytest.mark.parametrize(("net", "what"), [(AlwaysDropping, "(native_dropout|bernoulli)"), (Noisy, "randn")])
def test_other_random_numbers_are_refused_by_name(net: type[nn.Module], what: str) -> None:
    with pytest.raises(CaptureError, match=rf"draws random numbers: aten.{what}.*test_dropout_masks.py"):
        pg.build(policies._task("random", net(), models.vectors()))
