"""Passes: smaller graphs with the same inputs, outputs and numbers. (The numbers: see the contract.)"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import models
import pytest
import torch
from expansions import graph_of
from hypothesis import given
from hypothesis import strategies as st
from models import ZOO
from oracle import OPTIMIZERS, PLANS, assert_equal_gradients, assert_equal_steps, built, choices, run_steps
from torch import fx, nn
from truth import Truth

import pockgraph as pg
from pockgraph import passes
from pockgraph.ir.graph import Graph, Role, Slot, value_bytes
from pockgraph.ir.operator_kinds import VIEWS, is_elementwise
from pockgraph.passes.canonicalize import Canonicalize
from pockgraph.passes.dropout_masks import DropoutMasks
from pockgraph.passes.optimize.flatten_update import FlattenUpdate
from pockgraph.passes.optimize.fold_constants import FOLD_LIMIT_BYTES, FoldConstants
from pockgraph.passes.optimize.fold_scale import FoldScale
from pockgraph.passes.optimize.hoist_weight_gradients import HoistWeightGradients
from pockgraph.passes.optimize.keep_clamp_masks import KeepClampMasks
from pockgraph.passes.optimize.narrow_output_masks import NarrowOutputMasks
from pockgraph.passes.optimize.pointwise_as_matmul import PointwiseAsMatmul
from pockgraph.train_graph import TrainGraph
from pockgraph.train_graph.prune import assemble

aten = torch.ops.aten


def per_channel_products(graph: Graph, layer: str) -> list[fx.Node]:
    """Multiplications of an image by one factor a channel in a layer: a batch norm's scale."""
    return [
        n for n in graph.nodes()
        if n.target is aten.mul.Tensor and n.meta["layer"] == layer and n.meta["val"].ndim == 4
        and any(value_bytes(a.meta["val"]) < value_bytes(n.meta["val"]) for a in n.all_input_nodes)
    ]  # fmt: skip


def optimised(name: str, tensors: Sequence[str], optimizer: str = "sgd") -> TrainGraph:
    graph = built(name, optimizer)
    return passes.run(graph.prune(pg.Plan.of(graph, dict.fromkeys(tensors, 1.0))))


# ---------------------------------------------------------------- laws of every pass


@pytest.mark.parametrize("apply", passes.shared(), ids=lambda p: p.name)
@given(data=st.data())
def test_a_pass_keeps_the_interface(apply: passes.Pass, data: st.DataObject) -> None:
    graph = built(data.draw(st.sampled_from(sorted(ZOO))), "momentum")
    small = graph.prune(pg.Plan.of(graph, data.draw(choices(graph))))
    before = small.code()
    after = apply(small)
    after.validate()
    assert small.code() == before, "it changed its argument"
    assert after.outputs == small.outputs
    carried = (Role.BATCH, Role.LR, Role.OPT_STATE)
    kept = [s for s in small.inputs if s.trained or s.role in carried]
    assert [s for s in after.inputs if s.trained or s.role in carried] == kept
    assert len(list(after.nodes())) <= len(list(small.nodes()))
    again = apply(after)
    assert [n.target for n in again.nodes()] == [n.target for n in after.nodes()], "it is not done at once"
    for node in after.nodes():
        assert node.meta["phase"] in ("forward", "backward", "update")


BUILDING = (Canonicalize(), DropoutMasks(), HoistWeightGradients())
PRUNING = (NarrowOutputMasks(), KeepClampMasks())
ALL = (*BUILDING, *PRUNING, *passes.shared(), FlattenUpdate(), PointwiseAsMatmul())


@pytest.mark.parametrize("apply", [*BUILDING, *PRUNING], ids=lambda p: p.name)
@pytest.mark.parametrize("name", ["mobilenet", "transformer", "batch_resnet"])
def test_a_pass_of_building_or_pruning_leaves_its_argument_alone(name: str, apply: passes.Pass) -> None:
    whole = built(name)
    plan = PLANS["eighth"](whole)
    graph = whole.gradients if apply in BUILDING else assemble(whole.gradients, whole.optimizer, plan)
    before = graph.code()
    after = apply(graph)
    after.validate()
    assert graph.code() == before, "it changed its argument"
    assert after.outputs == graph.outputs
    assert [s for s in after.inputs if s.is_state] == [s for s in graph.inputs if s.is_state]
    again = apply(after)
    assert sorted(str(n.target) for n in again.nodes()) == sorted(str(n.target) for n in after.nodes())


@pytest.mark.parametrize("plan", ["biases", "head"])
def test_a_pruned_graph_asks_backward_operators_for_what_is_used(plan: str) -> None:
    whole = built("transformer")
    graph = assemble(whole.gradients, whole.optimizer, PLANS[plan](whole))
    masked = [n for n in NarrowOutputMasks()(graph).nodes() if "output_mask" in _last_argument(n)]
    for node in masked:
        assert [any(u.args[1] == i for u in node.users) for i in range(len(node.args[-1]))] == node.args[-1]


def test_a_clamped_result_that_backward_only_compares_leaves_one_byte_an_element() -> None:
    whole = built("mobilenet")
    small = whole.prune(PLANS["biases"](whole))
    masks = [n for n in small.nodes("backward") if n.target is aten.masked_fill.Scalar]
    assert masks
    for node in masks:
        assert node.args[1].meta["val"].dtype == torch.bool
        assert node.args[1].meta["phase"] == "forward"
    assert not [n for n in small.nodes() if n.target is aten.hardtanh_backward.default]


def _last_argument(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return schema.arguments[-1].name if schema and schema.arguments else ""


def test_passes_are_dataclasses_that_compare_equal_and_show_before_and_after() -> None:
    for apply in ALL:
        assert dataclasses.is_dataclass(apply)
        assert apply == type(apply)()
        assert len({apply, type(apply)()}) == 1
        module = __import__(type(apply).__module__, fromlist=["_"])
        assert "→" in (module.__doc__ or ""), f"{apply.name}: its docstring shows a before and after"


def test_evaluation_graphs_pass_too() -> None:
    graph = built("mobilenet")
    evaluation = passes.run(graph.prune(pg.Plan.head(graph)).evaluation())
    assert [s.role for s in evaluation.outputs] == [Role.METRIC]
    assert not [n for n in evaluation.nodes() if n.target is aten.rsqrt.default]


# ---------------------------------------------------------------- constants


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", ["mobilenet", "resnet", "transformer", "tied"])
def test_what_depends_on_constants_alone_is_computed_once(name: str, plan: str) -> None:
    """Except a view of a weight, which costs nothing, and what would be larger than its source."""
    graph = built(name)
    after = FoldConstants()(graph.prune(PLANS[plan](graph)))
    constant = {
        n for s, n in zip(after.inputs, after.placeholders.values())
        if s.role in (Role.PARAM, Role.BUFFER, Role.CONST) and not s.trained
    }  # fmt: skip
    for node in after.nodes():
        if node.all_input_nodes and all(a in constant for a in node.all_input_nodes):
            grows = value_bytes(node.meta["val"]) > 4096
            assert node.target in VIEWS or grows, node


def test_a_trained_tensor_is_never_folded() -> None:
    graph = built("mobilenet")
    small = graph.prune(pg.Plan.of(graph, {"stem.1.weight": 1.0, "stem.1.bias": 1.0}))
    after = passes.run(small)
    readers = after.placeholders["trained:stem.1.weight"].users
    assert any(u.meta["phase"] == "forward" for u in readers)
    assert any(u.meta["phase"] == "forward" for u in after.placeholders["trained:stem.1.bias"].users)


def test_equal_constants_are_stored_once() -> None:
    """Forward and backward scale by the same factors."""
    after = passes.run(built("mobilenet"))
    values = [v.numpy().tobytes() for n, v in after.values.items() if n.startswith("const:folded")]
    assert len(values) == len(set(values))


@pytest.mark.parametrize(("size", "stored"), [(512, True), (513, False)])
def test_a_mask_that_the_code_makes_is_stored_up_to_the_limit(size: int, stored: bool) -> None:
    """At capture, where all that it is made of is a size."""
    graph = graph_of(lambda x: x + torch.ones(size, size).tril(), torch.ones(1))
    assert (4 * size * size <= FOLD_LIMIT_BYTES) == stored
    after = FoldConstants(weights=False)(graph)
    assert any(v.shape == (size, size) for v in after.values.values()) == stored
    assert any(n.target is aten.tril.default for n in after.nodes()) != stored


@pytest.mark.parametrize(("rows", "stored"), [(1, False), (64, True)])
def test_after_pruning_no_constant_is_larger_than_what_it_is_made_from(rows: int, stored: bool) -> None:
    """As the two vectors of words are that a dropout mask is made from: their sum would be stored instead."""
    a, b = torch.rand(rows, 64), torch.rand(64, 1 if rows == 1 else 64)
    graph = graph_of(lambda a, b, x: x * (a + b), a, b, torch.ones(64, 64))
    slots = [Slot(Role.CONST, "", tuple(v.shape), "float32", key=k) for k, v in (("a", a), ("b", b))]
    values = {"const:a": a, "const:b": b}
    graph = dataclasses.replace(graph, inputs=(*slots, graph.inputs[2]), values=values)
    after = FoldConstants()(graph)
    assert sum(v.nbytes for v in after.values.values()) <= a.nbytes + b.nbytes
    assert any(n.target is aten.add.Tensor for n in after.nodes()) != stored


# ---------------------------------------------------------------- batch norm


def test_batch_norms_of_frozen_convolutions_disappear() -> None:
    small = optimised("mobilenet", ["classifier.weight"])
    assert not [
        n
        for n in small.nodes()
        if n.target in (aten.mul.Tensor, aten.rsqrt.default) and n.meta["phase"] == "forward"
    ]
    convolutions = [n for n in small.nodes() if n.target is aten.convolution.default]
    assert len(convolutions) == 10
    assert all(n.args[2] is not None for n in convolutions), "the shift is the convolution's bias"


def test_frozen_scales_disappear_from_the_backward_pass() -> None:
    """dX of a frozen convolution uses the scaled weight: no product by its batch norm's scale is left."""
    small = optimised("mobilenet", ["blocks.0.expand.0.weight"])
    for layer in ("blocks.1.expand", "blocks.1.depthwise", "blocks.2.expand", "blocks.2.depthwise"):
        assert not per_channel_products(small, f"{layer}.1"), layer
    assert not per_channel_products(small, "blocks.2.norm")


def test_a_trained_convolution_keeps_its_scale() -> None:
    """Trap 7: folded away, its gradient would be another network's. Forward and backward keep it."""
    layer = "blocks.1.expand"
    small = optimised("mobilenet", [f"{layer}.0.weight"])
    phases = [n.meta["phase"] for n in per_channel_products(small, f"{layer}.1")]
    assert phases == ["forward", "backward"]


def test_a_trained_shift_does_not_keep_a_frozen_scale() -> None:
    """Bias-only training of a batch norm: the scale folds, the trained shift is the bias."""
    small = optimised("mobilenet", ["blocks.1.expand.1.bias"])
    conv = next(
        n
        for n in small.nodes("forward")
        if n.target is aten.convolution.default and n.meta["layer"] == "blocks.1.expand.0"
    )
    assert not per_channel_products(small, "blocks.1.expand.1")
    shift = conv.args[2]
    assert isinstance(shift, fx.Node)
    assert small.placeholders["trained:blocks.1.expand.1.bias"] in shift.all_input_nodes


def test_a_trained_scale_is_not_folded() -> None:
    small = optimised("mobilenet", ["blocks.1.expand.1.weight"])
    assert [n for n in per_channel_products(small, "blocks.1.expand.1") if n.meta["phase"] == "forward"]


class Awkward(nn.Module):
    """Products that look like a batch norm's: of a shared convolution, of one with a bias, by one
    factor for all channels, and by a factor that widens."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(3, 4, 1, bias=False)
        self.biased, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.single, self.wide = nn.Conv2d(4, 1, 1, bias=False), nn.Parameter(torch.ones(1, 4, 1, 1))
        self.one = nn.Parameter(torch.ones(1, 1, 1, 1))
        self.plain = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(4, affine=False)
        self.last = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.shared(x)
        y = y * self.wide + y
        y = self.norm(self.biased(y)) * self.one
        y = self.single(y) * self.wide
        return self.last(self.norm2(self.plain(y)).mean((2, 3)))


@pytest.mark.parametrize(
    "tensors",
    [["last.weight"], ["shared.weight"], ["single.weight"], ["wide"], ["norm.bias", "plain.weight"]],
)
def test_products_that_only_look_like_a_batch_norm(tensors: list[str]) -> None:
    task = models.task_of("awkward", Awkward(), models.images(), lambda net, b: net(b["x"]))
    graph = pg.build(task)
    small = graph.prune(pg.Plan.of(graph, dict.fromkeys(tensors, 1.0)))
    lrs, batches = [0.1, 0.05, 0.1], list(task.train)
    got = run_steps(small, passes.run(small), passes.run(small.evaluation()), batches, lrs)
    assert_equal_steps(got, Truth(task, small.plan, OPTIMIZERS["sgd"], batches, lrs), small)


@pytest.mark.parametrize("name", ["mobilenet", "resnet"])
def test_folding_keeps_gradients(name: str) -> None:
    assert_equal_gradients(FoldScale()(FoldConstants()(built(name).gradients)), models.zoo(name))


# ---------------------------------------------------------------- the update on vectors


@pytest.mark.parametrize("optimizer", ["momentum", "adamw", "adafactor"])
def test_updates_of_kernels_on_vectors(optimizer: str) -> None:
    """Bit for bit the same; only what needs the shape, as the factors of Adafactor do, keeps it."""
    graph = built("mobilenet", optimizer)
    small = passes.run(graph.prune(PLANS["full"](graph)))
    flat = FlattenUpdate()(small)
    flat.validate()
    assert (flat.inputs, flat.outputs) == (small.inputs, small.outputs)
    assert FlattenUpdate()(flat).code() == flat.code()

    def kernels(graph: Graph) -> list[fx.Node]:
        return [n for n in graph.nodes("update") if n.meta["val"].ndim > 2 and is_elementwise(n)]

    assert len(kernels(small)) > 20
    for node in kernels(flat):
        assert {a.meta["val"].shape for a in node.all_input_nodes} - {node.meta["val"].shape, torch.Size()}
    batches, lrs = list(graph.task.train)[:2], [0.1, 0.05]
    evaluation = passes.run(small.evaluation())
    a, b = (run_steps(small, train, evaluation, batches, lrs) for train in (small, flat))
    for name in a.weights:
        assert torch.equal(a.weights[name], b.weights[name]), name


# ---------------------------------------------------------------- for whoever works on it


def test_debugging_shows_passes_and_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POCK_DEBUG", "1")
    monkeypatch.setenv("POCK_DUMP", str(tmp_path / "dump"))
    passes.run(pg.build(models.zoo("mlp")))
    names = ["gradients-00-canonicalize", "gradients-01-hoist_weight_gradients", "metric-00-canonicalize",
             "plan-00-narrow_output_masks", "plan-01-keep_clamp_masks",
             *(f"graph-{i:02d}-{p.name}" for i, p in enumerate(passes.shared()))]  # fmt: skip
    printed = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in printed] == names
    assert sorted(f.stem for f in (tmp_path / "dump").iterdir()) == sorted(names)
    for file in (tmp_path / "dump").iterdir():
        compile(file.read_text(), str(file), "exec")
