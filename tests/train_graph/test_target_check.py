"""What a check says is true: it lists all there is, and its plan is the largest that compiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from oracle import built
from torch import nn

import pockgraph as pg
from pockgraph import passes
from pockgraph.artifact.compiler import compile as compile_graph
from pockgraph.errors import PockError, UnsupportedOperators
from pockgraph.ir.graph import Graph
from pockgraph.passes import Pipeline, shared
from pockgraph.targets import Unsupported, target_names
from pockgraph.train_graph import TrainGraph
from pockgraph.train_graph.target_check import check

aten = torch.ops.aten


class Refusing:
    """A target that lacks operators of one's choice."""

    name = "refusing"
    integers_below = None

    def __init__(self, *ops: Any, when: Callable[[torch.fx.Node], bool] = lambda node: True) -> None:
        self.ops, self.when = ops, when

    def unsupported(self, graph: Graph) -> list[Unsupported]:
        return [
            Unsupported(str(n.target), n.meta["layer"], n.meta["source"], "it is refused", n.name)
            for n in graph.nodes()
            if n.target in self.ops and self.when(n)
        ]

    def pipeline(self, options: Mapping[str, Any]) -> Pipeline:
        return Pipeline(shared())

    def write(self, graph: Graph, folder: Path, stem: str, options: Mapping[str, Any]) -> None:
        raise AssertionError("nothing is written by a check")


def backward(node: torch.fx.Node) -> bool:
    return node.meta["phase"] == "backward"


def compiles(graph: TrainGraph, tensors: Mapping[str, Any], target: Refusing) -> bool:
    small = graph.prune(graph.plan.model_copy(update={"tensors": dict(tensors)}))
    return not any(target.unsupported(passes.run(g)) for g in (small, small.evaluation()))


BACKWARD = {
    "weight of a convolution": ("resnet", Refusing(aten.convolution_backward.default)),
    "input of a convolution": ("resnet", Refusing(aten.convolution.default, when=backward)),
    "pooling": ("resnet", Refusing(aten.max_pool2d_with_indices_backward.default)),
    "one of two uses": ("twice", Refusing(aten.tanh_backward.default)),
}


@pytest.mark.parametrize("case", BACKWARD)
def test_the_plan_holds_every_tensor_that_can_be_trained(case: str) -> None:
    model, target = BACKWARD[case]
    graph = built(model)
    found = check(graph, target)
    assert not found.ok
    assert {p.op for p in found.problems} == {str(op) for op in target.ops}
    assert {p.needed_by for p in found.problems} == {"gradients"}
    assert found.plan is not None
    one_by_one = {fqn for fqn, how in graph.plan.tensors.items() if compiles(graph, {fqn: how}, target)}
    assert set(found.plan.tensors) == one_by_one
    assert compiles(graph, found.plan.tensors, target)
    again = check(graph.prune(found.plan), target)
    assert again.ok
    assert again.plan == found.plan


def test_a_cut_is_named_by_the_lowest_part_that_is_trained_whole() -> None:
    lowest = Refusing(aten._softmax_backward_data.default, when=lambda n: "blocks.0" in n.meta["layer"])
    found = check(built("transformer"), lowest)
    assert found.advice == "Train from `blocks.0.attention.out` up, 24 of its 30 tensors, and it compiles."
    assert check(built("resnet"), BACKWARD["pooling"][1]).advice.startswith("Train from `layer1.0` up")
    weights = check(built("resnet"), BACKWARD["weight of a convolution"][1]).advice
    assert weights.startswith("Freeze conv1.weight, layer1.0.conv1.weight"), weights
    heads = Refusing(aten.mm.default, when=lambda n: backward(n) and n.meta["layer"] == "fc")
    assert check(built("resnet"), heads).advice.startswith("Train from `fc.bias` up, 1 of its 15 tensors")


def test_a_plan_is_cut_not_the_whole_model() -> None:
    graph = built("transformer")
    half = graph.prune(pg.Plan.of(graph, {"blocks.0.fc1.weight": 0.5, "blocks.1.fc1.weight": 0.5}))
    between = Refusing(aten.gelu_backward.default, when=lambda n: "blocks.0" in n.meta["layer"])
    found = check(half, between)
    assert found.plan is not None
    assert found.plan.tensors == {"blocks.1.fc1.weight": half.plan.tensors["blocks.1.fc1.weight"]}
    assert check(graph.prune(pg.Plan.head(graph)), between).ok


def test_what_the_loss_needs_is_needed_by_every_plan() -> None:
    found = check(built("mobilenet"), Refusing(aten.convolution.default))
    assert found.plan is None
    assert {p.needed_by for p in found.problems} >= {"loss", "metric"}
    assert "forward pass" in found.advice
    assert "no plan helps" in found.advice


class Exponential(nn.Module):
    """Weights of which the exponential is used."""

    def __init__(self) -> None:
        super().__init__()
        self.log_weight = nn.Parameter(torch.zeros(8, 12))
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x @ self.log_weight.exp().T)


def test_what_depends_on_weights_alone_vanishes_when_they_are_frozen() -> None:
    graph = pg.build(
        models.task_of("exponential", Exponential(), models.vectors(), lambda net, b: net(b["x"]))
    )
    found = check(graph, Refusing(aten.exp.default))
    assert {p.needed_by for p in found.problems} == {"loss", "metric"}
    assert found.plan is not None
    assert set(found.plan.tensors) == {"head.weight", "head.bias"}


def test_an_update_that_is_refused_needs_another_optimizer() -> None:
    target = Refusing(aten.sqrt.default)
    found = check(built("mlp", "adamw"), target)
    assert found.plan is None
    assert "'adamw'" in found.advice
    assert {p.needed_by for p in found.problems} == {"update"}
    assert check(built("mlp"), target).ok
    shared = Refusing(aten.add.Scalar, when=lambda n: n.meta["phase"] == "update" and n.meta["val"].ndim == 0)
    assert "'adamw'" in check(built("mlp", "adamw"), shared).advice


def test_a_gradient_that_all_others_pass_through() -> None:
    found = check(built("mlp"), Refusing(aten._log_softmax_backward_data.default))
    assert found.plan is None
    assert "Every gradient" in found.advice


def test_compiling_is_refused_with_the_same_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = BACKWARD["pooling"][1]
    monkeypatch.setattr("pockgraph.artifact.compiler.get_target", lambda name: target)
    with pytest.raises(UnsupportedOperators) as caught:
        compile_graph(built("resnet"), target="refusing", out=tmp_path / "out")
    assert str(caught.value) == str(check(built("resnet"), target))
    assert "models.py:" in str(caught.value)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("target", target_names())
def test_a_plan_compiles_for_every_target(target: str) -> None:
    found = built("mlp").check(target)
    assert found.ok
    assert found.to_dict() == {
        "target": target, "ok": True, "problems": [], "advice": "", "other_targets": [],
        "trainable": [r.fqn for r in built("mlp").tensors],
    }  # fmt: skip
    with pytest.raises(PockError, match="Did you mean"):
        built("mlp").check(target + "s")


def test_openvino_names_the_nodes_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    from pockgraph.passes.legalize import Legalize
    from pockgraph.targets.openvino import RULES, TABLE

    monkeypatch.setattr(TABLE, "legalize", Legalize(TABLE.refusal))  # it keeps what it has expanded
    monkeypatch.delitem(RULES, aten.logical_or.default)  # which a max pool's gradient stands for
    found = built("resnet").check("openvino")
    assert [p.op for p in found.problems] == ["aten.max_pool2d_with_indices_backward.default"]
    assert found.problems[0].source.endswith(f"models.py:{98}")
    assert found.other_targets == ("onnx", "torch")
    assert found.plan is not None
    assert len(found.plan.tensors) == 11
