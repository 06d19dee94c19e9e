"""Slicing: the gradient of some channels, computed for those channels alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import ZOO, zoo
from oracle import built, feed
from torch import fx
from truth import indices

import pockgraph as pg
from pockgraph.cost.flops import node_flops
from pockgraph.ir.graph import Role, output_args
from pockgraph.plan import Trained
from pockgraph.plan.tensor_info import TensorInfo
from pockgraph.task.batch import as_named
from pockgraph.train_graph import TrainGraph

aten = torch.ops.aten


def partial_rows(name: str) -> list[TensorInfo]:
    return [r for r in built(name).tensors if r.channels is not None]


def gradient_of(graph: TrainGraph, fqn: str, channels: list[int] | Trained) -> tuple[torch.Tensor, fx.Node]:
    """The gradient a step of plain SGD applies, read off the update, and the node that makes it."""
    small = graph.prune(pg.Plan.of(graph, {fqn: channels}))
    update = dict(zip((s.role for s in small.outputs), output_args(small.fx)))[Role.NEW_PARAM]
    scaled = update.args[1]
    assert update.target is aten.sub.Tensor
    assert isinstance(scaled, fx.Node)
    gradient = scaled.args[0]
    assert isinstance(gradient, fx.Node)
    batch = as_named(next(iter(zoo(graph.name).train)))
    values = feed(_with_output(small, gradient), small.values, batch, 0.1)
    return values[-1], gradient


def _with_output(graph: TrainGraph, node: fx.Node) -> TrainGraph:
    """The same graph that also returns `node`."""
    copied: dict[fx.Node, fx.Node] = {}
    new = fx.Graph()
    outputs = new.graph_copy(graph.fx, copied)
    new.output((*outputs, copied[node]))  # pyright: ignore
    return replace(graph, fx=new)


# The transformer has what BERT has, with a third of its tensors.
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "bert")) for n in ZOO])
def test_a_sliced_gradient_is_a_slice_of_the_gradient(name: str) -> None:
    graph = built(name)
    batch = as_named(next(iter(zoo(name).train)))
    outputs = feed(graph.gradients, graph.gradients.values, batch, 0.0)
    whole = dict(zip((s.fqn for s in graph.gradients.outputs), outputs))
    for row in graph.tensors:
        for dim, size in enumerate(row.shape):
            channels = tuple(range(1, size, 2))
            if channels:
                part, _ = gradient_of(graph, row.fqn, Trained(dim=dim, channels=channels))
                expected = whole[row.fqn].index_select(dim, indices(channels))
                torch.testing.assert_close(part, expected, msg=f"{row.fqn}, dim {dim}")


def test_output_channels_cost_their_share() -> None:
    """Rows of a linear layer's weight: the product is made of the selected columns of dy alone."""
    graph, fqn = built("mlp"), "layers.2.weight"
    flops = []
    for n in (1, 2, 8):
        small = graph.prune(pg.Plan.of(graph, {fqn: Trained(dim=0, channels=tuple(range(n)))}))
        flops.append(sum(node_flops(x) for x in small.nodes("backward") if x.target is aten.mm.default))
    batch, inputs = 4, 8
    assert flops[1] - flops[0] == 2 * batch * inputs
    assert flops[2] - flops[1] == 6 * 2 * batch * inputs


@pytest.mark.parametrize("name", ["mobilenet", "unet", "mlp", "transformer"])
def test_work_of_a_gradient_scales_with_its_channels(name: str) -> None:
    """FLOPs of dW at 1, 2 and 3 channels lie on a line through what the rest of the step costs."""
    graph = built(name)
    for row in [r for r in partial_rows(name) if r.kind == "weight"][::2]:
        assert row.channels is not None
        if row.channels < 4 or "embedding" in row.fqn or row.fqn == "token.weight":
            continue
        flops = [backward_flops(graph, row.fqn, n) for n in (1, 2, 3)]
        assert flops[1] - flops[0] == flops[2] - flops[1] > 0, row.fqn
        whole = backward_flops(graph, row.fqn, row.channels)
        own = sum(node_flops(n) for n in dw_nodes(graph, row.fqn, row.channels))
        assert own > 0
        assert whole - flops[0] == pytest.approx(own * (1 - 1 / row.channels), rel=0.35), row.fqn


def backward_flops(graph: TrainGraph, fqn: str, count: int) -> int:
    return graph.prune(pg.Plan.of(graph, {fqn: [*range(count)]})).phase_flops()["backward"]


def dw_nodes(graph: TrainGraph, fqn: str, count: int) -> list[fx.Node]:
    """The matrix product or convolution that makes the gradient."""
    _, node = gradient_of(graph, fqn, [*range(count)])
    while node.target not in (aten.mm.default, aten.bmm.default, aten.convolution_backward.default):
        node = node.all_input_nodes[0]
    return [node]


@pytest.mark.parametrize(
    ("name", "fqn"),
    [
        ("mobilenet", "blocks.2.project.weight"),
        ("mobilenet", "blocks.1.depthwise.0.weight"),
        ("mlp", "layers.2.weight"),
        ("bert", "encoder.encoder.layer.1.output.dense.weight"),
    ],
)
def test_only_the_selected_channels_of_an_activation_are_kept(name: str, fqn: str) -> None:
    graph = built(name)
    small = graph.prune(pg.Plan.of(graph, {fqn: [0, 2]}))
    selects = [n for n in small.nodes("forward") if n.target is aten.index_select.default]
    assert selects, "the selection belongs to the forward pass"
    for node in selects:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        while source.target in (aten.reshape.default, aten.permute.default):
            source = source.args[0]  # pyright: ignore
        late = [u for u in source.users if u.meta.get("phase") == "backward"]
        assert not late, f"{source} is kept whole as well"


# ---------------------------------------------------------------- which dimension channels run along


@pytest.mark.parametrize(
    ("name", "fqn", "dim"),
    [
        ("mobilenet", "stem.0.weight", 1),  # a convolution's input channels
        ("mobilenet", "blocks.0.depthwise.0.weight", 0),  # a depthwise convolution's channels
        ("resnet", "layer1.0.conv2.weight", 1),  # grouped: an input channel of every group
        ("resnet", "conv1.bias", 0),  # a vector's elements
        ("mobilenet", "stem.1.weight", 0),
        ("unet", "up.weight", 0),  # transposed: input channels come first
        ("mlp", "layers.2.weight", 1),  # a linear layer's inputs
        ("twice", "shared.weight", 1),
        ("transformer", "token.weight", 0),  # an embedding's rows
        ("transformer", "position", None),
        ("tied", "embedding.weight", None),  # rows here, inputs there
        ("tied", "hidden.weight", 1),
        ("bert", "encoder.encoder.layer.0.attention.self.query.weight", 1),
        ("bert", "encoder.embeddings.LayerNorm.weight", 0),
    ],
)
def test_channel_dimensions(name: str, fqn: str, dim: int | None) -> None:
    assert built(name).tensor(fqn).channel_dim == dim


def test_a_selection_stays_where_another_gradient_needs_the_whole() -> None:
    """`dy` of the depthwise convolution serves tensors below it, so it is computed whole, once."""
    graph = built("mobilenet")
    below = "blocks.1.expand.0.weight"
    alone = graph.prune(pg.Plan.of(graph, {below: 1.0}))
    both = graph.prune(pg.Plan.of(graph, {below: 1.0, "blocks.1.depthwise.0.weight": [0, 3]}))
    transposed = [
        len([n for n in g.nodes("backward") if n.target is aten.convolution.default]) for g in (alone, both)
    ]
    assert transposed[0] == transposed[1]


@given(st.data())
def test_parts_of_several_tensors_do_not_mix(data: st.DataObject) -> None:
    """Two tensors that read the same activation through different channels."""
    graph = built("resnet")
    twins = ["layer1.0.conv1.weight", "layer1.0.downsample.0.weight"]
    channel = st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True)
    choice = {fqn: sorted(data.draw(channel)) for fqn in twins}
    small = graph.prune(pg.Plan.of(graph, choice))
    batch = as_named(next(iter(zoo("resnet").train)))
    outputs = dict(zip((s.fqn for s in small.outputs), feed(small, small.values, batch, 1.0)))
    for fqn, channels in choice.items():
        alone = graph.prune(pg.Plan.of(graph, {fqn: channels}))
        expected = dict(zip((s.fqn for s in alone.outputs), feed(alone, alone.values, batch, 1.0)))
        torch.testing.assert_close(outputs[fqn], expected[fqn])
