"""Presets: the plans that papers report, by rule."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from models import ZOO, randomised
from oracle import built
from torch import nn

import pockgraph as pg
from pockgraph import Plan


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("mobilenet", "classifier"),
        ("resnet", "fc"),
        ("unet", "pixels"),
        ("mlp", "layers.4"),
        ("twice", "leave"),
        ("unused", "layers.4"),
        ("transformer", "classifier"),
        ("bert", "classifier"),
    ],
)
def test_the_head_is_the_last_layer_with_a_weight(name: str, layer: str) -> None:
    plan = Plan.head(built(name))
    assert set(plan.tensors) == {f"{layer}.weight", f"{layer}.bias"}
    assert plan.provenance == {"made_by": "head"}


def test_biases_are_counted_from_the_output() -> None:
    graph = built("mlp")
    assert set(Plan.last_k_biases(graph, 0).tensors) == {"layers.4.weight", "layers.4.bias"}
    assert set(Plan.last_k_biases(graph, 1).tensors) == {"layers.2.bias", "layers.4.weight", "layers.4.bias"}
    everything = set(Plan.last_k_biases(graph, 99).tensors)
    assert everything == {"layers.0.bias", "layers.2.bias", "layers.4.bias", "layers.4.weight"}


@pytest.mark.parametrize("name", ZOO)
def test_each_bias_adds_one_tensor_deeper_than_the_last(name: str) -> None:
    graph = built(name)
    depth = {r.fqn: r.depth for r in graph.tensors}
    before, deepest = set(Plan.last_k_biases(graph, 0).tensors), max(depth.values())
    for k in range(1, 4):
        plan = set(Plan.last_k_biases(graph, k).tensors)
        added = plan - before
        if not added:  # no more of them
            assert k > sum(r.kind == "bias" for r in graph.tensors) - 1
            break
        (fqn,) = added
        assert graph.tensor(fqn).kind == "bias"
        assert depth[fqn] <= deepest
        before, deepest = plan, depth[fqn]


def test_biases_of_norms_count() -> None:
    """Under batch norm a convolution has no bias of its own; the norm's shift is its bias."""
    assert "blocks.2.norm.bias" in Plan.last_k_biases(built("mobilenet"), 1).tensors


def test_convolutional_networks_train_the_first_pointwise_convolution_of_late_blocks() -> None:
    """7 of MobileNetV2's 17 blocks; of three blocks that is one."""
    plan = Plan.preset(built("mobilenet"))
    assert set(plan.tensors) == {
        "blocks.2.expand.0.weight",
        "blocks.2.expand.1.bias",
        "blocks.2.depthwise.1.bias",
        "blocks.2.norm.bias",
        "classifier.weight",
        "classifier.bias",
    }
    assert all(t == pg.plan.Trained() for t in plan.tensors.values())


@pytest.mark.parametrize(
    ("name", "prefix"), [("bert", "encoder.encoder.layer.1"), ("transformer", "blocks.1")]
)
def test_transformers_train_attention_and_the_first_feed_forward_layer(name: str, prefix: str) -> None:
    """Of two blocks: biases and weights of the last one."""
    graph = built(name)
    trained = set(Plan.preset(graph).tensors)
    inside = {t.removeprefix(prefix + ".") for t in trained if t.startswith(prefix)}
    assert trained - {f"{prefix}.{t}" for t in inside} == {"classifier.weight", "classifier.bias"}
    weights = {t for t in inside if graph.tensor(f"{prefix}.{t}").kind == "weight"}
    if name == "bert":
        attention = {f"attention.self.{n}.weight" for n in ("query", "key", "value")}
        assert weights == attention | {"attention.output.dense.weight", "intermediate.dense.weight"}
        assert "output.dense.weight" not in weights
    else:
        assert weights == {"attention.qkv.weight", "attention.out.weight", "fc1.weight"}
    biases = {r.fqn for r in graph.tensors if r.kind == "bias" and r.block == prefix}
    assert {f"{prefix}.{t}" for t in inside - weights} == biases


class Blocks(nn.Module):
    """MobileNetV2's number of blocks."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *[nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1)) for _ in range(count)]
        )
        self.head = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(x).mean((2, 3)))


def test_of_seventeen_blocks_the_preset_trains_the_seven_of_the_paper() -> None:
    batches = [{"x": torch.zeros(1, 2, 2, 2), "y": torch.zeros(1, dtype=torch.int64)}]
    task = pg.Task(
        "blocks",
        randomised(Blocks(17)),
        lambda net, b: F.cross_entropy(net(b["x"]), b["y"]),
        lambda net, b: (net(b["x"]).argmax(1) == b["y"]).float(),
        batches,
        batches,
    )
    plan = Plan.preset(pg.build(task))
    assert {t.rpartition(".")[0] for t in plan.tensors if t.endswith("weight")} == {
        "head",
        *(f"blocks.{i}.0" for i in range(10, 17)),
    }
    assert {t for t in plan.tensors if t.startswith("blocks") and t.endswith("bias")} == {
        f"blocks.{i}.{j}.bias" for i in range(10, 17) for j in (0, 2)
    }


@pytest.mark.parametrize("name", ["mlp", "twice"])
def test_networks_without_blocks_train_at_least_their_head(name: str) -> None:
    assert set(Plan.preset(built(name)).tensors) >= set(Plan.head(built(name)).tensors)
