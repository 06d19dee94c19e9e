"""Capture: the traced step is eager PyTorch's, under the names and places of the user's code."""

from __future__ import annotations

import copy
import inspect
import linecache
import operator
from pathlib import Path
from typing import Any

import models
import pytest
import torch
import torch.nn.functional as F
from models import ZOO, zoo
from oracle import assert_equal_gradients, built, feed, traced
from torch import nn
from truth import eager_gradients

import pockgraph as pg
from pockgraph.capture import trace_loss
from pockgraph.ir.graph import Graph, Role
from pockgraph.task.batch import Batch, as_named

aten = torch.ops.aten


def task_of(net: nn.Module, batches: list[Any] | None = None, **options: Any) -> pg.Task:
    def loss(net: nn.Module, batch: Batch) -> torch.Tensor:
        return F.cross_entropy(net(batch["x"]), batch["y"])

    def metric(net: nn.Module, batch: Batch) -> torch.Tensor:
        return (net(batch["x"]).argmax(1) == batch["y"]).float()

    data = batches or models.vectors()
    return pg.Task("captured", net, **{"loss": loss, "metric": metric, "train": data, "eval": data} | options)


# ---------------------------------------------------------------- numbers and form


@pytest.mark.parametrize("name", ["mobilenet", "transformer", "tied"])
def test_traced_gradients_are_autograds(name: str) -> None:
    """In canonical form those of every model are, see `test_canonical`."""
    assert_equal_gradients(traced(name), zoo(name))


@pytest.mark.parametrize("name", ZOO)
def test_traced_metric_is_the_tasks(name: str) -> None:
    task = zoo(name)
    batch = as_named(next(iter(task.eval)))
    graph = built(name).metric
    with torch.no_grad():
        expected = task.metric(task.model, task.rebuild(batch))
    torch.testing.assert_close(feed(graph, graph.values, batch, 0.0)[0], expected)


@pytest.mark.parametrize("name", ZOO)
def test_a_graph_is_aten_operators_with_named_inputs(name: str) -> None:
    whole = built(name)
    for graph in (whole, whole.gradients, whole.metric):
        graph.validate()
        for node in graph.fx.nodes:
            assert node.op in ("placeholder", "call_function", "output")
            if node.op == "call_function" and node.target is not operator.getitem:
                assert node.target.namespace == "aten", node
                assert not node.target._schema.is_mutable, node


@pytest.mark.parametrize("name", ["transformer", "bert"])
def test_attention_is_plain_arithmetic(name: str) -> None:
    """A fused attention kernel has a backward on one device only."""
    assert not [n for n in built(name).gradients.nodes() if "attention" in str(n.target)]


def test_tuple_batches_are_named_by_position() -> None:
    batches = [(b["x"], b["y"]) for b in models.vectors()]
    net = models.randomised(models.MLP())
    task = task_of(
        net,
        batches,
        loss=lambda net, b: F.cross_entropy(net(b[0]), b[1]),
        metric=lambda net, b: (net(b[0]).argmax(1) == b[1]).float(),
    )
    graph = pg.build(task)
    assert [(s.fqn, s.dtype) for s in graph.batch_slots] == [("0", "float32"), ("1", "int64")]
    assert_equal_gradients(graph.gradients, task)


def test_tensors_made_inside_the_model_become_constants() -> None:
    class Scaled(models.MLP):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * torch.tensor([1.0, 2.0, 3.0, 4.0])

    task = task_of(models.randomised(Scaled()))
    graph = pg.build(task)
    constants = [v for v in graph.values.values() if v.shape == (4,)]
    assert not [s for s in graph.inputs if s.trained and s.fqn not in dict(task.model.named_parameters())]
    assert any(torch.equal(c, torch.tensor([1.0, 2.0, 3.0, 4.0])) for c in constants)
    assert_equal_gradients(graph.gradients, task)


def test_operators_that_work_in_place_are_captured() -> None:
    class InPlace(models.MLP):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.relu(self.layers(x), inplace=True) * 3
            y[:, 0] = y[:, 1] * 2
            return y.add_(1)

    task = task_of(models.randomised(InPlace()))
    assert_equal_gradients(pg.build(task).gradients, task)


@pytest.mark.parametrize("inplace", [False, True], ids=["functional", "in-place"])
@pytest.mark.parametrize("inplace_region", [False, True], ids=["", "in-place-inside"])
def test_regions_without_gradients_stay_without(inplace: bool, inplace_region: bool) -> None:
    """Export flattens `torch.no_grad` away; a distillation target must still not be trained."""

    def loss(net: nn.Module, b: Batch) -> torch.Tensor:
        with torch.no_grad():
            target = F.relu(net(b["x"] + 1), inplace=inplace_region).softmax(1)
        scale = F.relu(net(b["x"]), inplace=inplace).square()
        with torch.no_grad():
            scale = scale.mean() + scale.sum()
        return F.cross_entropy(net(b["x"]), target) * scale + net(b["x"]).detach().mean()

    task = task_of(models.randomised(models.MLP()), loss=loss)
    graph = pg.build(task).gradients
    assert_equal_gradients(graph, task)
    assert not [n for n in graph.nodes() if n.target is not operator.getitem and n.target._schema.is_mutable]


# ---------------------------------------------------------------- what becomes of the model


def snapshot(net: nn.Module) -> dict[str, Any]:
    return {
        "state": {k: v.clone() for k, v in net.state_dict().items()},
        "modes": {n: m.training for n, m in net.named_modules()},
        "flags": {n: (p.requires_grad, p.grad) for n, p in net.named_parameters()},
    }


def test_build_leaves_the_model_as_it_was() -> None:
    net = models.randomised(models.MobileNet())
    task = task_of(net, models.images())
    net.train()
    net.blocks[1].eval()
    net.classifier.weight.requires_grad_(False)
    before = snapshot(net)
    pg.build(task)
    after = snapshot(net)
    assert after["modes"] == before["modes"]
    assert after["flags"] == before["flags"]
    assert all(torch.equal(after["state"][k], v) for k, v in before["state"].items())


def test_a_model_in_training_mode_is_captured_in_evaluation_mode() -> None:
    net = models.MLP()
    net.layers.insert(1, nn.Dropout(0.9))
    task = task_of(models.randomised(net))
    net.train()
    graph = trace_loss(task).graph
    assert "dropout" not in graph.code()
    assert "rand" not in graph.code()
    assert_equal_gradients(graph, task)


@pytest.mark.parametrize("name", ["mobilenet", "bert"])
def test_weights_are_not_copied(name: str) -> None:
    """A large model is in memory once."""
    for fqn, p in zoo(name).model.named_parameters():
        assert built(name).initial(fqn).data_ptr() == p.data_ptr(), fqn


@pytest.mark.parametrize("name", ZOO)
def test_models_of_the_zoo_have_their_initial_weights(name: str) -> None:
    fresh = ZOO[name]().model.state_dict()
    assert all(torch.equal(fresh[k], v) for k, v in zoo(name).model.state_dict().items())


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", ZOO)
def test_every_parameter_is_listed_under_pytorchs_name(name: str) -> None:
    graph, net = built(name), zoo(name).model
    assert {r.fqn for r in graph.tensors} | {*graph.unused} == {n for n, _ in net.named_parameters()}
    for row in graph.tensors:
        assert row.shape == tuple(net.get_parameter(row.fqn).shape)
    buffers = dict(net.named_buffers())
    for slot in graph.gradients.inputs:
        if slot.role is Role.BUFFER:
            assert torch.equal(graph.gradients.values[slot.name], buffers[slot.fqn])


def test_a_tied_weight_is_one_tensor_with_the_gradient_of_both_uses() -> None:
    graph, task = built("tied"), zoo("tied")
    assert graph.aliases == {"decoder.weight": "embedding.weight"}
    assert [r.fqn for r in graph.tensors].count("embedding.weight") == 1
    batch = as_named(next(iter(task.train)))
    got = dict(
        zip(
            (s.fqn for s in graph.gradients.outputs),
            feed(graph.gradients, graph.gradients.values, batch, 0.0),
        )
    )
    untied = copy.deepcopy(task.model)
    untied.decoder.weight = nn.Parameter(untied.embedding.weight.detach().clone())
    task.loss(untied, batch).backward()
    both = untied.decoder.weight.grad + untied.embedding.weight.grad
    assert untied.decoder.weight.grad.norm() > 0.1 * both.norm()
    torch.testing.assert_close(got["embedding.weight"], both)


def test_unused_parameters_are_named_and_no_rows() -> None:
    assert built("unused").unused == ("spare.weight", "spare.bias")
    assert not [r for r in built("unused").tensors if r.layer == "spare"]


# ---------------------------------------------------------------- places


def weights_of(graph: Graph, node: Any) -> list[str]:
    """FQNs of parameters that a node reads, itself or through views."""
    fqns = {n: s.fqn for s, n in zip(graph.inputs, graph.placeholders.values()) if s.role is Role.PARAM}
    found, pending = [], list(node.all_input_nodes)
    while pending:
        operand = pending.pop()
        if operand in fqns:
            found.append(fqns[operand])
        elif operand.target is aten.permute.default:
            pending += operand.all_input_nodes
    return found


@pytest.mark.parametrize("name", ZOO)
def test_layers_are_the_modules_that_own_the_weights(name: str) -> None:
    graph, net = built(name).gradients, zoo(name).model
    modules = {n for n, _ in net.named_modules()}
    seen = 0
    for node in graph.nodes():
        assert node.meta["layer"] in modules, node
        if node.target in (aten.convolution.default, aten.convolution_backward.default, aten.addmm.default):
            owners = {fqn.rpartition(".")[0] for fqn in weights_of(graph, node)} - {"decoder", "embedding"}
            if owners:
                seen += 1
                assert node.meta["layer"] in owners, node
    assert seen or name == "tied"


@pytest.mark.parametrize("name", ZOO)
def test_weight_gradients_belong_to_their_layer(name: str) -> None:
    """The node that makes a dW or db says whose it is, so that a timeline can be read."""
    graph = built(name).gradients
    for slot, node in zip(graph.outputs[1:], list(graph.results.values())[1:]):
        if slot.fqn not in ("embedding.weight", "shared.weight", "shared.bias"):  # used more than once
            assert node.meta["layer"] == slot.fqn.rpartition(".")[0], (slot.fqn, node.meta["layer"])


def test_sources_are_the_users_lines() -> None:
    graph = built("mlp").gradients
    file = inspect.getsourcefile(models)
    lines = {}
    for node in graph.nodes("forward"):
        path, _, line = node.meta["source"].rpartition(":")
        assert Path(path) == Path(str(file))
        lines.setdefault(str(node.target), linecache.getline(path, int(line)).strip())
    assert lines["aten.addmm.default"] == "return self.layers(x)"
    assert lines["aten._log_softmax.default"].startswith("return F.cross_entropy(")


def test_a_librarys_model_is_captured_with_its_own_paths() -> None:
    graph = built("bert")
    layers = {n.meta["layer"] for n in graph.nodes("forward")}
    assert "encoder.encoder.layer.1.attention.self.query" in layers
    sources = {n.meta["source"].rpartition(":")[0] for n in graph.nodes("forward") if n.meta["source"]}
    assert any(s.endswith("modeling_bert.py") for s in sources)
    assert {"ids", "mask", "y"} == {s.fqn for s in graph.batch_slots}
    assert eager_gradients(zoo("bert"), next(iter(zoo("bert").train))).keys() == {
        r.fqn for r in graph.tensors
    }
