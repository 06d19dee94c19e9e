"""Canonical form: the same numbers, in operators that can be dropped one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import models
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from models import ZOO, zoo
from oracle import assert_equal_gradients, built, traced
from torch import fx, nn

import pockgraph as pg
from pockgraph.capture import trace_loss
from pockgraph.cost.graph_memory import timeline
from pockgraph.ir.graph import Graph
from pockgraph.ir.operator_kinds import storage_of
from pockgraph.passes.canonicalize import Canonicalize
from pockgraph.passes.optimize.hoist_weight_gradients import HoistWeightGradients
from pockgraph.plan.tensor_info import TensorInfo
from pockgraph.train_graph.prune import prune

aten = torch.ops.aten


def ops(graph: Graph) -> list[str]:
    return [str(n.target) for n in graph.nodes()]


def saved_by(node: fx.Node) -> Iterator[fx.Node]:
    """Forward activations that a backward node reads."""
    for operand in node.all_input_nodes:
        storage = storage_of(operand)
        if storage.op == "call_function" and storage.meta["phase"] == "forward":
            yield storage


@pytest.mark.parametrize("name", ZOO)
def test_gradients_stay_autograds(name: str) -> None:
    assert_equal_gradients(built(name).gradients, zoo(name))


@pytest.mark.parametrize("name", ZOO)
def test_canonical_form_is_canonical(name: str) -> None:
    graph = built(name).gradients
    again = Canonicalize()(graph)
    assert sorted(ops(again)) == sorted(ops(graph))


@pytest.mark.parametrize("name", ZOO)
def test_only_canonical_operators_remain(name: str) -> None:
    gone = {
        aten.detach.default, aten.alias.default, aten.t.default, aten.transpose.int, aten.view.default,
        aten._unsafe_view.default, aten._native_batch_norm_legit_no_training.default,
        aten.native_batch_norm_backward.default,
    }  # fmt: skip
    for graph in (built(name).gradients, built(name).metric):
        for node in graph.nodes():
            assert node.target not in gone, node
            assert node.all_input_nodes, f"{node} depends on nothing and is no constant"
            if node.target is aten.convolution_backward.default:
                assert list(node.args[-1]) == [False, True, False]  # pyright: ignore
            if node.target is aten.permute.default:
                assert node.args[0].target is not aten.permute.default  # pyright: ignore


@pytest.mark.parametrize("name", ["mobilenet", "resnet", "unet"])
def test_passing_a_gradient_through_a_convolution_saves_nothing(name: str) -> None:
    """dX reads dy and the weight. Were it a part of `convolution_backward`, x would stay alive."""
    backward = [n for n in built(name).gradients.nodes("backward") if n.target is aten.convolution.default]
    assert backward
    for node in backward:
        assert not list(saved_by(node)), node


@pytest.mark.parametrize("name", ZOO)
def test_a_bias_gradient_saves_nothing(name: str) -> None:
    graph = built(name).gradients
    biases = [r.fqn for r in graph_rows(name) if r.kind == "bias"]
    results = graph.results
    for fqn in biases:
        node = results[f"grad:{fqn}"]
        while node.target in (aten.reshape.default, aten.add.Tensor):
            node = node.all_input_nodes[0]
        assert node.target is aten.sum.dim_IntList, (fqn, node)
        assert not list(saved_by(node)), fqn


def graph_rows(name: str) -> tuple[TensorInfo, ...]:
    return built(name).tensors


def test_the_backward_of_relu6_reads_its_result() -> None:
    """The result of a clamp is often saved anyway; its input is not."""
    nodes = [n for n in built("mobilenet").gradients.nodes() if n.target is aten.hardtanh_backward.default]
    assert len(nodes) == 7
    assert all(n.args[1].target is aten.hardtanh.default for n in nodes)  # pyright: ignore


@pytest.mark.parametrize(
    ("mask", "guarded"),
    [("none", False), ("causal", False), ("first", False), ("empty", True), ("input", True)],
)
def test_attention_ignores_rows_that_are_masked_out_entirely(mask: str, guarded: bool) -> None:
    """PyTorch gives them zeros, not NaN; where no row can be, nothing is spent on it."""
    masks = {"first": torch.tensor([[True, False, False, True]]).expand(4, 4), "empty": torch.eye(4) > 2}

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(4, 12)

        def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(x)[:, None].chunk(3, -1)
            chosen = keep[:, None, None, :] if mask == "input" else masks.get(mask)
            return F.scaled_dot_product_attention(q, k, v, chosen, is_causal=mask == "causal")

    torch.manual_seed(0)
    keep = torch.tensor([[True, True, False, True], [False, False, False, False]])
    batch = {"x": torch.randn(2, 4, 4), "keep": keep}
    task = pg.Task(
        name="attending", model=Attending(), train=[batch], eval=[batch],
        loss=lambda net, b: net(b["x"], b["keep"]).square().mean(),
        metric=lambda net, b: net(b["x"], b["keep"]).mean((1, 2, 3)),
    )  # fmt: skip
    graph = Canonicalize()(trace_loss(task).graph)
    assert_equal_gradients(graph, task)
    assert guarded == any(n.target is aten.amax.default for n in graph.nodes())


class Shaped(nn.Module):
    """Something trainable in front of a function of one tensor."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x * self.gain)


def shaped(function: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]) -> tuple[pg.Task, Graph]:
    """A task around `function`, and its canonical graph."""
    batches = [{"x": torch.randn(shape, generator=torch.Generator().manual_seed(0))}]
    task = pg.Task(
        "shaped", Shaped(function, shape), lambda net, b: net(b["x"]).square().sum() / 2,
        lambda net, b: net(b["x"]).sum().expand(shape[0]), batches, batches,
    )  # fmt: skip
    return task, Canonicalize()(trace_loss(task).graph)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((3, 4), {}),
        ((4, 3), {"offset": 1}),
        ((3, 4), {"offset": -2}),
        ((3, 2), {"offset": 5}),
        ((2, 3, 4), {"dim1": -1, "dim2": 0}),
        ((2, 3, 2, 4), {"offset": 1, "dim1": 1, "dim2": 3}),
    ],
)
def test_diagonals_are_slices(shape: tuple[int, ...], options: dict[str, int]) -> None:
    task, graph = shaped(lambda x: x.diagonal(**options), shape)
    assert_equal_gradients(graph, task)
    assert not {"aten.diagonal.default", "aten.diagonal_backward.default"} & set(ops(graph))


@pytest.mark.parametrize(
    "put",
    [
        lambda x: torch.select_scatter(x, x[:, 0] * 2, 1, -1),
        lambda x: torch.slice_scatter(x, x[:, 1:3] * 2, 1, 1, 3),
        lambda x: torch.slice_scatter(x, x * 2, -1),
        lambda x: torch.slice_scatter(x, x[:, ::2] * 2, 1, 0, None, 2),
    ],
)
def test_putting_one_tensor_into_another(put: Callable[[torch.Tensor], torch.Tensor]) -> None:
    task, graph = shaped(put, (2, 4))
    assert_equal_gradients(graph, task)
    assert "aten.select_scatter.default" not in ops(graph)


@pytest.mark.parametrize(
    ("index", "plain"),
    [
        (lambda x: x[torch.arange(2)[:, None, None], torch.arange(3)], True),
        (lambda x: x[torch.arange(2)[:, None, None, None], torch.arange(3)[:, None]], True),
        (lambda x: x[torch.arange(2), torch.arange(2)], False),
        (lambda x: x[torch.arange(2), torch.arange(3)[:, None]], False),  # transposed
        (lambda x: x[torch.tensor([[1], [0]]), torch.arange(3)], False),
        (lambda x: x[torch.arange(2)], False),
        (lambda x: x.reshape(-1)[torch.arange(6).reshape(2, 3)], True),
        (
            lambda x: x.reshape(1, 6).expand(3, 6)[
                torch.arange(3)[:, None], torch.arange(6).reshape(2, 1, 3)
            ],
            False,
        ),
    ],
)
def test_an_index_over_everything_is_a_view(
    index: Callable[[torch.Tensor], torch.Tensor], plain: bool
) -> None:
    task, graph = shaped(index, (2, 3))
    assert_equal_gradients(graph, task)
    assert plain != ("aten.index.Tensor" in ops(graph))


@pytest.mark.parametrize("name", ["mobilenet", "transformer", "tied"])
def test_hoisting_never_raises_the_peak(name: str) -> None:
    trace, whole = Canonicalize()(traced(name)), built(name)
    plain = prune(trace, whole.optimizer, whole.plan)
    hoisted = prune(HoistWeightGradients()(trace), whole.optimizer, whole.plan)
    assert timeline(hoisted).peak_bytes <= timeline(plain).peak_bytes


def test_weight_gradients_stand_before_the_gradient_moves_on() -> None:
    """x, saved for dW, is dead before dX is there."""
    graph = built("mlp").gradients
    order = {n: i for i, n in enumerate(graph.fx.nodes)}
    results = graph.results
    assert order[results["grad:layers.4.weight"]] < order[results["grad:layers.2.weight"]]
    through = [n for n in graph.nodes("backward") if n.target is aten.threshold_backward.default]
    assert order[results["grad:layers.4.weight"]] < order[through[0]]


# ---------------------------------------------------------------- convolutions of every shape


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """A convolution and an input shape it accepts."""
    ndim = draw(st.sampled_from([1, 2, 2, 2, 3]))
    transposed = draw(st.booleans())
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    inputs = groups * draw(st.integers(1, 2))
    outputs = groups * draw(st.integers(1, 2))
    kernel = draw(st.integers(1, 3))
    stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    padding = draw(st.integers(0, kernel - 1))
    size = draw(st.integers(5, 8))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    options["bias"] = draw(st.booleans())
    if transposed:
        options["output_padding"] = draw(st.integers(0, max(stride, dilation) - 1))
        kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[ndim - 1]
    else:
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[ndim - 1]
    return kind(inputs, outputs, kernel, **options), (2, inputs, *[size] * ndim)


class Probe(nn.Module):
    """A convolution with something trainable before it, so that its dX is needed."""

    def __init__(self, conv: nn.Module, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x * self.gain.reshape(1, -1, *[1] * (x.ndim - 2)))


@given(convolutions())
@settings(max_examples=30)
def test_gradients_of_any_convolution(drawn: tuple[nn.Module, tuple[int, ...]]) -> None:
    conv, shape = drawn
    net = models.randomised(Probe(conv, shape[1]))
    batches = [{"x": torch.randn(shape, generator=torch.Generator().manual_seed(0))}]
    task = pg.Task(
        "conv",
        net,
        lambda net, b: net(b["x"]).square().mean(),
        lambda net, b: net(b["x"]).flatten(1).mean(1),
        batches,
        batches,
    )
    trace = trace_loss(task)
    assert_equal_gradients(HoistWeightGradients()(Canonicalize()(trace.graph)), task)
