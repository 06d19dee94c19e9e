"""Pruning: what a plan leaves out is not in the graph."""

from __future__ import annotations

from typing import Any

import models
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from models import ZOO, zoo
from oracle import PLANS, built, choices, feed, next_state
from torch import fx, nn
from truth import indices

import pockgraph as pg
from pockgraph.ir.graph import Graph, Role, output_args
from pockgraph.ir.operator_kinds import VIEWS, storage_of
from pockgraph.task.batch import as_named
from pockgraph.train_graph import TrainGraph

aten = torch.ops.aten
NETS = st.sampled_from(sorted(ZOO))


def node_ops(graph: Graph) -> list[str]:
    return [str(n.target) for n in graph.nodes()]


def crossing(graph: Graph) -> set[fx.Node]:
    """What the forward pass leaves in memory for later: activations that later phases read."""
    return {
        storage
        for node in graph.nodes()
        if node.meta["phase"] != "forward"
        for storage in map(storage_of, node.all_input_nodes)
        if storage.op == "call_function" and storage.meta["phase"] == "forward"
    }


def one_step(graph: TrainGraph, lr: float = 0.1) -> dict[str, torch.Tensor]:
    """The next state after one batch of the zoo's task."""
    batch = as_named(next(iter(zoo(graph.name).train)))
    return next_state(graph, feed(graph, graph.values, batch, lr))


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize("name", ZOO)
def test_a_full_plan_prunes_nothing(name: str) -> None:
    graph = built(name)
    same = graph.prune(pg.Plan.full(graph))
    assert node_ops(same) == node_ops(graph)
    assert [s.name for s in same.inputs] == [s.name for s in graph.inputs]
    assert same.outputs == graph.outputs
    assert (same.peak_bytes, same.flops) == (graph.peak_bytes, graph.flops)


@given(st.data())
def test_pruning_twice_is_pruning_once(data: st.DataObject) -> None:
    graph = built(data.draw(NETS))
    plan = pg.Plan.of(graph, data.draw(choices(graph)))
    other = pg.Plan.of(graph, data.draw(choices(graph)))
    once = graph.prune(plan)
    assert once.prune(plan).code() == once.code()
    assert graph.prune(other).prune(plan).code() == once.code(), "it depends on the plan before"
    assert once.validate() is None


@given(st.data())
def test_training_fewer_tensors_costs_no_more(data: st.DataObject) -> None:
    """Nodes, FLOPs, extra memory and the modelled peak."""
    graph = built(data.draw(NETS), "momentum")
    large = data.draw(
        st.lists(st.sampled_from(graph.tensors), min_size=2, max_size=8, unique_by=lambda r: r.fqn)
    )
    small = data.draw(st.lists(st.sampled_from(large), min_size=1, unique_by=lambda r: r.fqn))
    a = graph.prune(pg.Plan.of(graph, {r.fqn: 1.0 for r in large}))
    b = graph.prune(pg.Plan.of(graph, {r.fqn: 1.0 for r in small}))
    assert len(node_ops(b)) <= len(node_ops(a))
    assert b.flops <= a.flops
    assert b.extra_bytes <= a.extra_bytes
    assert b.peak_bytes <= a.peak_bytes


@given(st.data())
def test_training_fewer_channels_costs_no_more(data: st.DataObject) -> None:
    graph = built(data.draw(NETS), "momentum")
    rows = [r for r in graph.tensors if r.channels]
    rows = data.draw(st.lists(st.sampled_from(rows), min_size=1, max_size=4, unique_by=lambda r: r.fqn))
    large, small = {}, {}
    for row in rows:
        channel = st.integers(0, row.channels - 1)
        large[row.fqn] = data.draw(st.lists(channel, min_size=1, max_size=row.channels - 1, unique=True))
        small[row.fqn] = data.draw(st.lists(st.sampled_from(large[row.fqn]), min_size=1, unique=True))
    a, b = (graph.prune(pg.Plan.of(graph, choice)) for choice in (large, small))
    assert len(node_ops(b)) == len(node_ops(a))
    assert b.flops <= a.flops
    assert b.extra_bytes <= a.extra_bytes
    assert b.peak_bytes <= a.peak_bytes


@pytest.mark.parametrize("name", ["mobilenet", "resnet", "unet", "transformer", "bert"])
def test_training_half_of_a_tensor_saves_less_than_training_it(name: str) -> None:
    """Where its layer reads an activation; an embedding and the first layer read the batch, which is
    there anyway."""
    graph = built(name)
    depths = [
        r.depth
        for r in graph.tensors
        if r.kind == "weight" and "embedding" not in r.fqn and r.fqn != "token.weight"
    ]
    for row in graph.tensors:
        if row.kind == "weight" and row.channels and row.depth > min(depths) and row.depth in depths:
            half, whole = (graph.prune(pg.Plan.of(graph, {row.fqn: r})) for r in (0.5, 1.0))
            assert half.extra_bytes < whole.extra_bytes, row.fqn
            assert half.flops < whole.flops, row.fqn


# ---------------------------------------------------------------- what changes


@given(st.data())
def test_exactly_the_planned_channels_move(data: st.DataObject) -> None:
    """Trap 2: the plan stores channel indices, and they are what the graph slices and updates."""
    graph = built(data.draw(st.sampled_from(["mobilenet", "resnet", "mlp", "twice"])))
    plan = pg.Plan.of(graph, data.draw(choices(graph)))
    small = graph.prune(plan)
    after = one_step(small)
    assert {n for n in after if n.startswith("trained:")} == {f"trained:{fqn}" for fqn in plan.tensors}
    for fqn, how in plan.tensors.items():
        slot = small.input(f"trained:{fqn}")
        assert (slot.dim, slot.indices) == (how.dim, how.channels)
        start = graph.initial(fqn)
        if how.dim is None:
            assert slot.shape == graph.tensor(fqn).shape
            continue
        assert torch.equal(small.values[f"const:{fqn}:channels"], indices(how.channels))
        start = start.index_select(how.dim, indices(how.channels))
        assert torch.equal(small.values[slot.name], start)
        moved = by_channel(after[slot.name] - start, how.dim)
        reachable = by_channel(full_gradient(graph, fqn), how.dim)[indices(how.channels)]
        assert torch.equal(moved > 0, reachable > 0), fqn


def by_channel(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """The largest absolute value of each channel."""
    channels = tensor.abs().transpose(0, dim)
    return channels.reshape(len(channels), -1).amax(1)


def full_gradient(graph: TrainGraph, fqn: str) -> torch.Tensor:
    batch = as_named(next(iter(zoo(graph.name).train)))
    outputs = feed(graph.gradients, graph.gradients.values, batch, 0.0)
    return next(o for s, o in zip(graph.gradients.outputs, outputs) if s.fqn == fqn)


def test_a_plan_by_magnitude_is_not_the_first_channels() -> None:
    """Trap 2 again: had the graph sliced the first k, this plan would tell."""
    graph = built("mobilenet")
    fqn = "blocks.2.project.weight"
    plan = pg.Plan.of(graph, {fqn: 0.25})
    norms = graph.initial(fqn).square().sum((0, 2, 3))
    assert plan.tensors[fqn].channels == tuple(sorted(norms.topk(3).indices.tolist()))
    assert plan.tensors[fqn].channels != (0, 1, 2)


def test_frozen_tensors_are_constants() -> None:
    graph = built("mobilenet", "adamw")
    small = graph.prune(pg.Plan.head(graph))
    states = {s.name for s in small.state_slots}
    assert {n.split(":")[1] for n in states if n.startswith("trained")} == {
        "classifier.weight",
        "classifier.bias",
    }
    for slot in small.inputs:
        if slot.role is Role.PARAM and not slot.trained:
            assert torch.equal(small.values[slot.name], graph.initial(slot.fqn))
            assert f"new_param:{slot.fqn}" not in small.results


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", ZOO)
def test_nobody_reads_a_weight_after_its_update(name: str, plan: str) -> None:
    """So that the update may be done in place, which is what the memory model counts on."""
    graph = built(name, "adamw")
    small = graph.prune(PLANS[plan](graph))
    order = {n: i for i, n in enumerate(small.fx.nodes)}
    for slot, node in zip(small.outputs, output_args(small.fx)):
        if slot.role is not Role.NEW_PARAM:
            continue
        placeholder = small.placeholders[f"trained:{slot.fqn}"]
        for reader in small.nodes():
            reads = placeholder in map(storage_of, reader.all_input_nodes)
            if reads and reader.target not in VIEWS:
                assert order[reader] <= order[node], f"{reader} reads {slot.fqn} behind its update"


# ---------------------------------------------------------------- what is gone


def test_the_graph_itself_shrinks() -> None:
    """Trap 1: masking gradients after a full backward saves nothing."""
    graph = built("mobilenet", "momentum")
    head, half, full = (graph.prune(PLANS[p](graph)) for p in ("head", "half", "full"))
    assert head.phase_flops()["backward"] < 0.05 * full.phase_flops()["backward"]
    assert head.phase_flops()["forward"] == full.phase_flops()["forward"]
    assert head.extra_bytes < 0.05 * full.extra_bytes
    assert head.peak_bytes < 0.7 * full.peak_bytes
    assert half.phase_flops()["backward"] < full.phase_flops()["backward"]
    weight_gradients = [n for n in head.nodes() if n.target is aten.convolution_backward.default]
    assert not weight_gradients
    for node in half.nodes():
        if node.target is aten.convolution_backward.default:
            shapes = {s.shape for s in half.inputs if s.trained}
            assert tuple(node.meta["val"][1].shape) in shapes, f"{node} computes more than is trained"


@pytest.mark.parametrize("name", ZOO)
def test_frozen_layers_before_the_first_trained_one_are_not_differentiated(name: str) -> None:
    graph = built(name)
    first, last = {}, {}
    for i, node in enumerate(graph.gradients.nodes("forward")):
        first.setdefault(node.meta["layer"], i)
        last[node.meta["layer"]] = i
    for row in graph.tensors:
        if name == "twice" and row.layer == "shared":
            continue
        small = graph.prune(pg.Plan.of(graph, {row.fqn: 1.0}))
        for node in small.nodes("backward"):
            owner = node.meta["layer"]
            if owner and owner != row.layer:
                assert last[owner] >= first[row.layer], f"{row.fqn}: {node} of {owner} is in vain"


def test_a_bias_alone_keeps_no_input_of_its_layer() -> None:
    for name, fqn in (
        ("unet", "down.bias"),
        ("unet", "leave.bias"),
        ("resnet", "conv1.bias"),
        ("unet", "up.bias"),
    ):
        small = built(name).prune(pg.Plan.of(built(name), {fqn: 1.0}))
        layer = fqn.rpartition(".")[0]
        conv = next(
            n
            for n in small.nodes("forward")
            if n.target is aten.convolution.default and n.meta["layer"] == layer
        )
        assert storage_of(conv.args[0]) not in crossing(small), fqn  # pyright: ignore
        assert not [n for n in small.nodes() if n.target is aten.convolution_backward.default]


def test_linear_biases_alone_keep_no_input_of_their_layer() -> None:
    small = built("mlp").prune(pg.Plan.of(built("mlp"), {"layers.4.bias": 1.0}))
    assert {n.meta["layer"] for n in crossing(small)} == {""}, "only the loss keeps something"
    small = built("transformer").prune(pg.Plan.of(built("transformer"), {"blocks.1.fc1.bias": 1.0}))
    kept = crossing(small)
    norm = next(n for n in small.nodes() if n.meta["layer"] == "blocks.1.norm2")
    assert norm not in kept


@pytest.mark.parametrize(
    ("name", "fqn", "activations"), [("mobilenet", "stem.1.bias", 7), ("resnet", "layer1.0.bn1.bias", 2)]
)
def test_clamp_masks_of_frozen_layers_are_booleans(name: str, fqn: str, activations: int) -> None:
    """Trap 5: a full activation is kept where a bit would do, and train-mode batch norm keeps its input."""
    small = built(name).prune(pg.Plan.of(built(name), {fqn: 1.0}))
    images = [n for n in crossing(small) if n.meta["val"].ndim == 4]
    assert [n.meta["val"].dtype for n in images] == [torch.bool] * activations


def test_an_activation_that_is_kept_anyway_needs_no_clamp_mask() -> None:
    """A boolean beside the activation that dW needs would only cost more."""
    graph = built("mobilenet")
    small = graph.prune(
        pg.Plan.of(graph, {"blocks.0.expand.0.weight": 1.0, "blocks.0.depthwise.0.weight": 1.0})
    )
    kept = [n for n in small.nodes() if n.target is aten.hardtanh_backward.default]
    assert len(kept) == 1
    assert kept[0].args[1].meta["layer"] == "blocks.0.expand.2"  # pyright: ignore


# ---------------------------------------------------------------- savings follow the ratio


def test_saved_bytes_scale_with_the_ratio() -> None:
    graph = built("mobilenet")
    fqn = "blocks.2.project.weight"
    n, channels, height, width = 4, 12, 2, 2
    saved = {}
    for count in (1, 3, 6, 9):
        small = graph.prune(pg.Plan.of(graph, {fqn: [*range(count)]}))
        saved[count] = small.timeline.saved_bytes
    per_channel = n * height * width * 4
    assert saved[3] - saved[1] == 2 * per_channel
    assert saved[9] - saved[6] == 3 * per_channel
    whole = graph.prune(pg.Plan.of(graph, {fqn: 1.0})).timeline.saved_bytes
    assert whole - saved[9] == (channels - 9) * per_channel


def test_optimizer_state_scales_with_the_ratio() -> None:
    graph = built("mobilenet", "adamw")
    fqn = "blocks.2.project.weight"
    half = graph.prune(pg.Plan.of(graph, {fqn: 0.5})).timeline.state_bytes
    whole = graph.prune(pg.Plan.of(graph, {fqn: 1.0})).timeline.state_bytes
    assert whole == 2 * 4 * 6 * 12 + 8
    assert half == 2 * 4 * 6 * 6 + 8


# ---------------------------------------------------------------- where gradients meet


class FanOut(nn.Module):
    """x feeds three branches, one of them itself: d/dw has a known value."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.left = nn.Linear(2, 2, bias=False)
        self.right = nn.Linear(2, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return y + self.left(y) + self.right(y)


@pytest.mark.parametrize(
    "tensors", [["first.weight"], ["first.weight", "left.weight"], ["left.weight", "right.weight"]]
)
def test_gradients_add_up_at_a_fan_out(tensors: list[str]) -> None:
    """Trap 3: assigned instead of accumulated. The whole gradient is ones @ (I + L + R)^T-shaped."""
    net = models.randomised(FanOut())
    batches = [{"x": torch.tensor([[1.0, 2.0], [3.0, -1.0]])}]
    task = pg.Task(
        "fan", net, lambda net, b: net(b["x"]).sum(), lambda net, b: net(b["x"]).sum(1), batches, batches
    )
    graph = pg.build(task, pg.SGD(lr=1.0))
    small = graph.prune(pg.Plan.of(graph, dict.fromkeys(tensors, 1.0)))
    after = next_state(small, feed(small, small.values, batches[0], 1.0))
    x, (first, left, right) = (
        batches[0]["x"],
        (graph.initial(f"{n}.weight") for n in ("first", "left", "right")),
    )
    dy = torch.ones(2, 2)
    y = x @ first.T
    expected = {
        "first.weight": (dy + dy @ left + dy @ right).T @ x,
        "left.weight": dy.T @ y,
        "right.weight": dy.T @ y,
    }
    for fqn in tensors:
        torch.testing.assert_close(graph.initial(fqn) - after[f"trained:{fqn}"], expected[fqn])


@pytest.mark.parametrize("fqn", ["blocks.0.expand.0.weight", "stem.0.weight"])
def test_residual_connections_carry_both_gradients(fqn: str) -> None:
    """In a graph pruned to one tensor below residual connections, additions remain that join them."""
    small = built("mobilenet").prune(pg.Plan.of(built("mobilenet"), {fqn: 1.0}))
    joins = [
        n for n in small.nodes("backward")
        if n.target is aten.add.Tensor and all(a.meta.get("phase") == "backward" for a in n.all_input_nodes)
    ]  # fmt: skip
    assert len(joins) == (1 if fqn.startswith("blocks") else 2)


# ---------------------------------------------------------------- batch norm


@pytest.mark.parametrize("weight_too", [False, True])
def test_a_trained_convolution_under_batch_norm_has_eval_mode_gradients(weight_too: bool) -> None:
    """Trap 7: with the scale folded away the gradient is another, and training may diverge."""
    task, graph = zoo("mobilenet"), built("mobilenet")
    fqns = ["blocks.1.expand.0.weight", *(["blocks.1.expand.1.weight"] if weight_too else [])]
    small = graph.prune(pg.Plan.of(graph, dict.fromkeys(fqns, 1.0)))
    after = one_step(small, lr=1.0)
    batch = as_named(next(iter(task.train)))
    x = None

    def keep(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal x
        x = inputs[0].detach()

    block = task.model.get_submodule("blocks.1.expand")
    hook = block.register_forward_pre_hook(keep)
    with torch.no_grad():
        task.model(batch["x"])
    hook.remove()
    assert x is not None
    params = {k: v.detach().double().requires_grad_(k in fqns) for k, v in task.model.named_parameters()}
    buffers = {k: v.double() if v.is_floating_point() else v for k, v in task.model.named_buffers()}
    logits = torch.func.functional_call(task.model, {**params, **buffers}, (batch["x"].double(),))
    grads = torch.autograd.grad(F.cross_entropy(logits, batch["y"]), [params[f] for f in fqns])
    for fqn, grad in zip(fqns, grads):
        moved = (graph.initial(fqn) - after[f"trained:{fqn}"]).double()
        assert (moved - grad).norm() <= 1e-4 * grad.norm()


def test_batch_norm_statistics_are_constants() -> None:
    graph: Any = built("mobilenet")
    assert not [s for s in graph.state_slots if s.role is Role.BUFFER]
    assert not [n for n in graph.nodes() if "batch_norm" in str(n.target)]
