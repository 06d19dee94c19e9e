"""Heads as units: the channels that `heads` names are the ones a head computes with."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from attention_check import check_heads
from oracle import built

import pockgraph as pg
from pockgraph.errors import PlanError
from pockgraph.plan import Trained
from pockgraph.train_graph.attention_heads import attentions

LAYER = "blocks.1.attention"


@pytest.mark.parametrize("head", [0, 1])
def test_channels_of_a_fused_projection(head: int) -> None:
    check_heads("transformer", LAYER, f"{LAYER}.out", [head], [head])
    chosen = pg.heads(built("transformer"), LAYER, [head])
    rows = tuple(4 * head + 8 * part + i for part in range(3) for i in range(4))
    assert chosen == {
        f"{LAYER}.qkv.weight": Trained(dim=0, channels=rows),
        f"{LAYER}.qkv.bias": Trained(dim=0, channels=rows),
        f"{LAYER}.out.weight": Trained(dim=1, channels=tuple(range(4 * head, 4 * head + 4))),
    }


def test_all_heads_are_the_whole_projections() -> None:
    chosen = pg.heads(built("transformer"), LAYER, range(2))
    assert set(chosen.values()) == {Trained()}
    assert pg.heads(built("transformer"), "blocks.1", [1, 0, 1]) == chosen


def test_some_projections_only() -> None:
    chosen = pg.heads(built("transformer"), LAYER, [0], of=["v"])
    assert {part.channels for part in chosen.values()} == {(16, 17, 18, 19)}
    assert f"{LAYER}.out.weight" not in chosen


def test_heads_go_into_a_plan() -> None:
    graph = built("transformer")
    plan = pg.Plan.of(graph, pg.heads(graph, LAYER, [1]) | {"classifier.weight": 1.0})
    assert plan.ratio(f"{LAYER}.qkv.weight") == 0.5
    assert graph.prune(plan).flops < graph.prune(pg.Plan.of(graph, dict.fromkeys(plan.tensors, 1.0))).flops


def test_naming_heads_draws_nothing_from_the_callers_generator() -> None:
    before = torch.get_rng_state()
    pg.heads(built("transformer"), LAYER, [0])
    assert torch.equal(before, torch.get_rng_state())


def test_attentions_are_listed_with_their_heads() -> None:
    assert attentions(built("transformer")) == {"blocks.0.attention": 2, LAYER: 2}
    assert attentions(built("mlp")) == {}


@pytest.mark.parametrize(
    ("name", "layer", "heads", "of", "says"),
    [
        ("transformer", "blocks.1.atention", [0], "q", ["blocks.1.atention", "Did you mean", LAYER]),
        ("transformer", "", [0], "q", ["2 attentions", LAYER]),
        ("mlp", "layers.0", [0], "q", ["no attention", "has none"]),
        ("transformer", LAYER, [0, 2], "q", ["heads 0 to 1", "[2]"]),
        ("transformer", LAYER, [-1], "q", ["heads 0 to 1", "[-1]"]),
        ("transformer", LAYER, [], "q", ["heads 0 to 1", "none"]),
        ("transformer", LAYER, [0], ["query"], ["'q'", "query"]),
    ],
)
def test_heads_that_are_not_there(
    name: str, layer: str, heads: list[int], of: Sequence[str], says: list[str]
) -> None:
    with pytest.raises(PlanError) as caught:
        pg.heads(built(name), layer, heads, of=of)
    for part in says:
        assert part in str(caught.value), str(caught.value)
