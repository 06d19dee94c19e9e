"""Parts of a tensor: for every kind of layer exactly what is planned moves, and what is kept for it
follows the ratio."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from models import register, zoo
from oracle import built, feed, next_state
from truth import eager_gradients, indices

import pockgraph as pg
from pockgraph.errors import PlanError, TaskError
from pockgraph.profile.profiler import profile_of
from pockgraph.task.batch import as_named
from pockgraph.train_graph import TrainGraph
from zoo import convolutional, recurrent

MODELS = convolutional.MODELS | recurrent.MODELS
register(MODELS)
SMALL = ("shufflenet", "unet2", "convnext", "group_normed", "audionet", "gru_tagger")

# model, tensor, its channel dimension, and whether what is saved for it grows by the same for each channel,
# from one to all
KINDS = [
    ("unet2", "down1.0.weight", 1, True),  # dense
    ("unet2", "pixels.weight", 1, True),  # pointwise
    ("unet2", "up2.weight", 0, True),  # transposed
    ("shufflenet", "features.1.reduce.0.weight", 1, True),  # grouped pointwise
    ("shufflenet", "features.3.0.weight", 1, True),  # grouped, strided
    ("shufflenet", "features.4.weight", 1, True),  # grouped, dilated
    ("shufflenet", "features.1.depthwise.0.weight", 0, False),
    ("shufflenet", "features.3.1.weight", 0, False),  # batch norm
    ("shufflenet", "features.3.1.bias", 0, False),
    ("convnext", "features.2.depthwise.weight", 0, True),
    ("convnext", "features.2.expand.weight", 1, True),  # linear, of four dimensions
    ("convnext", "features.2.norm.weight", 0, False),  # layer norm
    ("convnext", "features.2.norm.bias", 0, False),
    ("convnext", "features.2.gamma", 0, True),  # layer scale
    ("group_normed", "features.1.weight", 0, False),  # group norm
    ("group_normed", "features.4.weight", 0, False),  # instance norm
    ("group_normed", "features.4.bias", 0, False),
    ("audionet", "mix.0.weight", 1, True),  # 1-D
    ("audionet", "depthwise.weight", 0, True),
    ("audionet", "up.weight", 0, True),  # 1-D, transposed
    ("audionet", "pointwise.2.weight", 0, False),  # PReLU
    ("gru_tagger", "embedding.weight", 0, False),  # rows
    ("gru_tagger", "recurrent.weight_ih_l0", 1, False),  # what it reads is an embedding's columns
    ("gru_tagger", "recurrent.weight_hh_l0_reverse", 1, False),
]


@pytest.mark.parametrize(("name", "fqn", "dim"), [k[:3] for k in KINDS])
def test_exactly_the_planned_channels_move(name: str, fqn: str, dim: int) -> None:
    """To where autograd takes them; nothing else is even there to change."""
    graph = built(name)
    row = graph.tensor(fqn)
    assert row.channel_dim == dim
    assert row.channels is not None
    channels = [*range(row.channels)][1::2]
    small = graph.prune(pg.Plan.of(graph, {fqn: channels}))
    batch = as_named(next(iter(zoo(name).train)))
    after = next_state(small, feed(small, small.values, batch, 0.1))
    assert set(after) == {f"trained:{fqn}"}
    gradient = eager_gradients(zoo(name), batch)[fqn].index_select(dim, indices(channels))
    start = graph.initial(fqn).index_select(dim, indices(channels))
    torch.testing.assert_close(start - after[f"trained:{fqn}"], 0.1 * gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "fqn"), [k[:2] for k in KINDS if k[3]])
def test_saved_activations_scale_with_the_channels(name: str, fqn: str) -> None:
    graph = built(name)
    count = graph.tensor(fqn).channels
    assert count is not None
    saved = [
        graph.prune(pg.Plan.of(graph, {fqn: [*range(n)]})).timeline.saved_bytes for n in range(1, count + 1)
    ]
    steps = {b - a for a, b in itertools.pairwise(saved)}
    assert len(steps) == 1, f"not a line: {saved}"
    assert steps.pop() > 0, f"more channels keep no more: {saved}"


def plans(graph: TrainGraph, seed: int) -> Iterator[dict[str, float]]:
    rng = random.Random(seed)
    for _ in range(6):
        rows = rng.sample(list(graph.tensors), rng.randint(1, len(graph.tensors)))
        yield {r.fqn: rng.choice((1.0, 0.5, 0.25)) if r.channels else 1.0 for r in rows}
    for row in rng.sample(list(graph.tensors), min(8, len(graph.tensors))):
        yield {row.fqn: 0.5 if row.channels else 1.0}


@pytest.mark.parametrize(
    "name", [pytest.param(m, marks=[] if m in SMALL else pytest.mark.slow) for m in MODELS]
)
def test_the_profile_predicts_these_plans_to_the_byte(name: str) -> None:
    graph = built(name)
    profile = profile_of(graph)
    for choice in plans(graph, seed=1):
        small, figures = graph.prune(profile.plan(choice)), profile.figures(choice)
        assert figures.peak_bytes == small.peak_bytes, choice
        assert figures.saved_bytes == small.timeline.saved_bytes, choice
        assert figures.extra_bytes == small.extra_bytes, choice
        assert figures.flops == small.flops, choice


# ---------------------------------------------------------------- channels by Fisher information


def test_fisher_scores_are_squared_gradients_of_each_channel() -> None:
    task, graph = zoo("shufflenet"), built("shufflenet")
    scores = pg.fisher_scores(graph, task.train)
    assert set(scores) == {r.fqn for r in graph.tensors if r.channels}
    expected: dict[str, torch.Tensor] = {}
    for batch in task.train:
        for fqn, grad in eager_gradients(task, as_named(batch), torch.float64).items():
            expected[fqn] = expected.get(fqn, torch.zeros(())) + grad.square()
    for fqn, score in scores.items():
        dim = graph.tensor(fqn).channel_dim
        assert dim is not None
        by_channel = expected[fqn].transpose(0, dim).reshape(len(score), -1).sum(1)
        np.testing.assert_allclose(score, by_channel.numpy(), rtol=1e-3, err_msg=fqn)


def test_a_plan_takes_the_channels_of_the_highest_score() -> None:
    graph = built("shufflenet")
    fqn = "features.3.0.weight"
    scores = pg.fisher_scores(graph, zoo("shufflenet").train, [fqn])
    plan = pg.Plan.of(graph, {fqn: 0.5}, channels=scores)
    assert plan.tensors[fqn].channels == tuple(sorted(np.argsort(-scores[fqn])[:2].tolist()))
    worst = pg.Plan.of(graph, {fqn: 0.5}, channels={fqn: -scores[fqn]})
    assert set(worst.tensors[fqn].channels or ()).isdisjoint(plan.tensors[fqn].channels or ())


def test_scores_that_do_not_fit_are_refused() -> None:
    graph = built("shufflenet")
    fqn, train = "features.3.0.weight", list(zoo("shufflenet").train)
    with pytest.raises(PlanError, match=r"needs batches.*fisher_scores"):
        pg.Plan.of(graph, {fqn: 0.5}, channels="fisher")  # pyright: ignore
    with pytest.raises(PlanError, match=r"no channel scores for 'features.3.0.weight'.*features.3.0.weigth"):
        pg.Plan.of(graph, {fqn: 0.5}, channels={"features.3.0.weigth": [1.0]})
    with pytest.raises(PlanError, match="needs 4 channel scores"):
        pg.Plan.of(graph, {fqn: 0.5}, channels={fqn: [1.0, 2.0]})
    with pytest.raises(PlanError, match="1 that are not numbers"):
        pg.Plan.of(graph, {fqn: 0.5}, channels={fqn: [1.0, 2.0, float("nan"), 0.0]})
    with pytest.raises(PlanError, match="no channels to score in 'nothing'"):
        pg.fisher_scores(graph, train, ["nothing"])
    with pytest.raises(PlanError, match="there are none"):
        pg.fisher_scores(graph, [])
    with pytest.raises(TaskError, match="one shape"):
        pg.fisher_scores(graph, [{k: v[:1] for k, v in train[0].items()}])
