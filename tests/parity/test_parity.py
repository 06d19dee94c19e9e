"""The parity record: right artefacts agree, wrong ones do not ship, and nothing is left of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_task import CHOICES, OPTIMIZERS, Compile, batches, loss, make_graph, make_plan, make_task, metric
from torch import nn

import pockgraph as pg
from pockgraph.artifact import Artifact
from pockgraph.errors import ParityError
from pockgraph.ir.graph import Graph, aten
from pockgraph.optimizer import Optimizer
from pockgraph.parity import artefact_runs, rounding
from pockgraph.parity import compiled_step as parity
from pockgraph.parity.artefact_runs import ArtefactRuns
from pockgraph.parity.eager_reference import autograd
from pockgraph.passes import Pipeline, run
from pockgraph.plan import Plan
from pockgraph.runtime.artifact_files import read_manifest
from pockgraph.runtime.parity_record import ParityRecord
from pockgraph.targets import target_names

TARGETS = target_names()


def record(artifact: Artifact) -> ParityRecord:
    found = artifact.manifest.parity
    assert isinstance(found, ParityRecord)
    return found


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_right_artefact_agrees(target: str, optimizer: str, compiled: Compile) -> None:
    found = record(compiled(target, "sparse", optimizer))
    assert found.ok
    assert not found.forced
    deviations = (found.loss_deviation, found.gradient_deviation, found.step_deviation)
    assert all(d is not None and d < 1e-5 for d in deviations), found
    assert found.worst_gradient in CHOICES["sparse"]
    assert found.update_deviation is not None
    assert found.update_deviation < 1e-12
    assert (found.dtype, found.device) == ("float32", "CPU")
    assert {"torch", "pockui"} <= found.versions.keys()
    task = make_task()
    with torch.no_grad():
        assert found.loss == pytest.approx(float(task.loss(task.model, task.example)), rel=1e-6)


def test_the_batch_is_named_by_its_content(compiled: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    first = record(compiled("torch")).batch_sha256
    assert first == record(compiled("openvino")).batch_sha256
    digest = parity._digest({k: torch.from_numpy(v) for k, v in batches(2)[1].items()})
    assert len(digest) == len(first)
    assert digest != first


@pytest.mark.parametrize("double", [False, True])
def test_the_model_is_left_as_it_was(double: bool) -> None:
    graph = make_graph()
    model = graph.task.model
    model.train()
    model.conv1.weight.requires_grad_(False)  # pyright: ignore
    before = {k: v.clone() for k, v in model.state_dict().items()}
    attributes = {name: dict(vars(m)) for name, m in model.named_modules()}
    try:
        autograd(graph.task, graph.prune(make_plan()).plan, double)
        assert model.training
        assert model.norm.training  # pyright: ignore
        assert not model.conv1.weight.requires_grad  # pyright: ignore
        assert model.conv2.weight.requires_grad  # pyright: ignore
        assert all(p.grad is None for p in model.parameters())
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert {name: dict(vars(m)) for name, m in model.named_modules()} == attributes
    finally:
        model.eval()
        model.requires_grad_(True)


# ---------------------------------------------------------------- what is wrong


def replacing(phase: str, old: Any, new: Any) -> Callable[..., Graph]:
    """In place of `Pipeline.start`: it swaps an operator of the training graph."""

    def apply(pipeline: Pipeline, graph: Graph, name: str, *how: Any) -> Graph:
        graph = run(graph, pipeline.shared, name)
        found = [n for n in graph.nodes(phase) if n.target is old]
        for node in found:
            node.target = new
        assert found or phase != "forward"
        return graph

    return apply


WRONG = {
    "the loss": (replacing("forward", aten.relu.default, aten.abs.default), "the loss is off by"),
    "the update": (replacing("update", aten.sub.Tensor, aten.add.Tensor), "after one step is off by"),
}


def times_two(pipeline: Pipeline, graph: Graph, name: str, *how: Any) -> Graph:
    """Every matrix product of the backward pass, doubled."""
    graph = run(graph, pipeline.shared, name)
    for node in [n for n in graph.nodes("backward") if n.target is aten.mm.default]:
        with graph.fx.inserting_after(node):
            twice = graph.fx.call_function(aten.add.Tensor, (node, node))
        twice.meta = dict(node.meta)
        node.replace_all_uses_with(twice, delete_user_cb=lambda user, own=twice: user is not own)
    return graph


WRONG["the backward pass"] = (times_two, "after one step is off by")


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_artefact_does_not_ship(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, words = WRONG[what]
    monkeypatch.setattr(Pipeline, "start", wrong)
    with pytest.raises(ParityError, match=words) as caught:
        pg.compile(make_graph(), make_plan(), target="torch", out=tmp_path / "out")
    assert "force=True" in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_a_refused_artefact_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = pg.compile(make_graph(), make_plan("head"), target="torch", out=tmp_path / "out")
    monkeypatch.setattr(Pipeline, "start", WRONG["the update"][0])
    with pytest.raises(ParityError):
        pg.compile(make_graph(), make_plan(), target="torch", out=tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert Artifact.load(tmp_path / "out").plan == old.plan


def test_force_ships_it_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipeline, "start", WRONG["the update"][0])
    artifact = pg.compile(make_graph(), make_plan(), target="torch", out=tmp_path / "out", force=True)
    found = record(artifact)
    assert found.forced
    assert not found.ok
    assert found.step_deviation is not None
    assert found.step_deviation > 0.1
    monkeypatch.undo()
    good = pg.compile(make_graph(), make_plan(), target="torch", out=tmp_path / "out", force=True)
    assert not record(good).forced, "what agrees needs no force"


def test_a_model_that_changed_since_it_was_captured(tmp_path: Path) -> None:
    graph = pg.build(make_task(), OPTIMIZERS["sgd"])
    graph.task.model.head.weight = nn.Parameter(torch.ones(4, 6))
    with pytest.raises(ParityError, match=r"before any target[\s\S]*the loss is off[\s\S]*build it again"):
        pg.compile(graph, Plan.head(graph), target="torch", out=tmp_path / "out")


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    task = make_task()
    task.model.head.weight.data.fill_(float("inf"))
    graph = pg.build(task, OPTIMIZERS["sgd"])
    with pytest.raises(ParityError, match="the loss is not finite"):
        pg.compile(graph, Plan.head(graph), target="torch", out=tmp_path / "out")
    artifact = pg.compile(graph, Plan.head(graph), target="torch", out=tmp_path / "out", force=True)
    assert record(artifact).loss is None
    assert read_manifest(artifact.path) == artifact.manifest


def test_what_cannot_be_run_here_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("no compiler on this machine")

    monkeypatch.setattr(artefact_runs, "open_runner", fail)
    with pytest.raises(ParityError, match=r"no compiler on this machine[\s\S]*parity=False"):
        pg.compile(make_graph(), make_plan(), target="torch", out=tmp_path / "out")
    assert not any(tmp_path.iterdir())
    artifact = pg.compile(make_graph(), make_plan(), target="torch", out=tmp_path / "out", parity=False)
    assert artifact.manifest.parity == "skipped"


# ---------------------------------------------------------------- rounding


class Shifted(nn.Module):
    """`shift` moves all scores of a softmax alike: its gradient is zero, and rounding in practice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.score = nn.Linear(16, 5)
        self.shift = nn.Parameter(torch.zeros(8, 1))
        self.head = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((self.score(x) * 3 + self.shift).softmax(1))


class Kinked(nn.Module):
    """Every hidden unit lies at the kink: the last bit of a weight decides whether it has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.rand(16) + 0.5)
        self.register_buffer("before", self.scale.detach().clone())
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((x * self.scale - x * self.before).relu() + x)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("net", [Shifted, Kinked])
@pytest.mark.parametrize("optimizer", [pg.AdamW(lr=0.1), pg.SGD(lr=0.1, momentum=0.9)], ids=lambda o: o.name)
def test_rounding_is_no_deviation(
    optimizer: Any, net: Callable[[], nn.Module], target: str, tmp_path: Path
) -> None:
    data = [{"x": torch.randn(8, 16), "y": torch.randint(0, 4, (8,))}]
    graph = pg.build(pg.Task("rounded", net(), loss, metric, data, data), optimizer)
    assert record(pg.compile(graph, target=target, out=tmp_path / "out")).ok


def scaled(fqn: str, factor: float) -> Callable[..., Graph]:
    """In place of `Pipeline.start`: it scales the gradient of one tensor."""

    def apply(pipeline: Pipeline, graph: Graph, name: str, *how: Any) -> Graph:
        graph = run(graph, pipeline.shared, name)
        scale_gradient(graph, fqn, factor)
        return graph

    return apply


def scale_gradient(graph: Graph, fqn: str, factor: float) -> None:
    for node in [n for n in graph.fx.nodes if fqn in n.meta.get("gradient_of", ())]:
        with graph.fx.inserting_after(node):
            new = graph.fx.call_function(aten.mul.Scalar, (node, factor))
        new.meta = dict(node.meta)
        del node.meta["gradient_of"]
        node.replace_all_uses_with(new, delete_user_cb=lambda user, own=new: user is not own)


@pytest.mark.parametrize(("fqn", "optimizer"), zip(CHOICES["sparse"], itertools.cycle(OPTIMIZERS)))
def test_a_gradient_that_is_a_thousandth_too_long_does_not_ship(
    fqn: str, optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pipeline, "start", scaled(fqn, 1.001))
    with pytest.raises(ParityError, match=rf"compiled for 'torch'[\s\S]*{fqn}"):
        pg.compile(make_graph(optimizer), make_plan(), target="torch", out=tmp_path / "out")


DECAYING: dict[str, Optimizer] = {
    "adamw": pg.AdamW(lr=1e-3, weight_decay=1e-4),
    "adafactor": pg.Adafactor(lr=1e-2, weight_decay=1e-3, clip_norm=0.1),
    "lion": pg.Lion(lr=1e-4, weight_decay=1e-2),
    "groups": pg.AdamW(lr=1e-3, accumulate=3, groups=(pg.Group("head.*", lr_scale=3.0, weight_decay=0.2),)),
}


@pytest.mark.parametrize("optimizer", DECAYING.values(), ids=DECAYING)
def test_a_weight_decay_that_is_a_hundredth_off_does_not_ship(
    optimizer: Optimizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = pg.build(make_task(), optimizer).prune(make_plan())
    assert record(pg.compile(small, target="torch", out=tmp_path / "out")).ok

    def more(pipeline: Pipeline, graph: Graph, name: str, *how: Any) -> Graph:
        graph = run(graph, pipeline.shared, name)
        weight = graph.placeholders["trained:head.weight"]
        for node in [n for n in graph.nodes("update") if n.target is aten.mul.Scalar and n.args[0] is weight]:
            node.args = (weight, node.args[1] * 1.01)
        return graph

    monkeypatch.setattr(Pipeline, "start", more)
    with pytest.raises(ParityError, match=r"trained:head\.weight after [\w ]+ is off by"):
        pg.compile(small, target="torch", out=tmp_path / "out")
    found = record(pg.compile(small, target="torch", out=tmp_path / "out", force=True))
    assert not found.ok
    assert found.worst_step == "trained:head.weight"


def test_a_graph_whose_gradient_is_wrong_is_not_blamed_on_the_target(tmp_path: Path) -> None:
    small = make_graph().prune(make_plan())
    scale_gradient(small, "head.weight", 1.001)
    with pytest.raises(
        ParityError, match=r"gradient of head\.weight is off[\s\S]*Another target does not help"
    ):
        pg.compile(small, target="torch", out=tmp_path / "out")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_update_that_is_wrong_in_the_graph_is_refused(optimizer: str, tmp_path: Path) -> None:
    """The compiled step agrees with such a graph: it is held against torch.optim."""
    small = make_graph(optimizer).prune(make_plan())
    result = small.results["new_param:head.weight"]
    moved: Any = result if result.target is aten.sub.Tensor else result.args[1]
    with small.fx.inserting_before(moved):
        longer = small.fx.call_function(aten.mul.Scalar, (moved.args[1], 1.0001))
    longer.meta = dict(moved.meta)
    moved.replace_input_with(moved.args[1], longer)
    name = type(OPTIMIZERS[optimizer]).__name__
    says = rf"as torch\.optim\.{name} does[\s\S]*head\.weight is off by"
    with pytest.raises(ParityError, match=says) as said:
        pg.compile(small, target="torch", out=tmp_path / "out")
    assert "bug of pockgraph's" in str(said.value)
    found = record(pg.compile(small, target="torch", out=tmp_path / "out", force=True))
    assert found.forced
    assert not found.ok
    assert found.worst_update == "trained:head.weight"


def test_a_module_without_a_float64_form_is_judged_in_float32(tmp_path: Path) -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.dtype == torch.float32, "single precision only"
            return self.layers(x)

    data = [{"x": torch.randn(64, 16), "y": torch.randint(0, 4, (64,))}]
    task = pg.Task("single", Single(), loss, metric, data, data, batch_norm="batch")
    found = record(pg.compile(pg.build(task, pg.AdamW(lr=0.1)), target="openvino", out=tmp_path / "out"))
    assert found.ok
    assert "single precision only" in found.referee


def test_storing_a_weight_rounds_it() -> None:
    before = torch.full((4,), 1000.0)
    after = (before.double() + 1e-5).float()
    right, zero = before.double() + 1e-5, torch.zeros(4)
    width = rounding.state_width(right, before, zero, 0.0, torch.float32)
    assert rounding.deviation(after, right, right - before, width).beyond == 0.0
    assert rounding.deviation(before + 1, right, right - before, width).beyond > 1e3


# ---------------------------------------------------------------- the manifest


def test_manifests_without_a_record_can_still_be_read(copied: Callable[..., Path]) -> None:
    folder = copied("torch")
    data = json.loads((folder / "manifest.json").read_text())
    del data["parity"]
    (folder / "manifest.json").write_text(json.dumps(data))
    artifact = Artifact.load(folder)
    assert artifact.manifest.parity is None
    artifact.trainer().step(batches(1)[0])


def test_a_made_up_record_is_refused(copied: Callable[..., Path]) -> None:
    folder = copied("torch")
    data = json.loads((folder / "manifest.json").read_text())
    data["parity"] = {"loss": 1.0}
    (folder / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(pg.PockError, match="parity"):
        read_manifest(folder)


def test_the_step_is_the_artefacts_own(compiled: Compile) -> None:
    """What is compared is what a Trainer does."""
    artifact = compiled("openvino")
    lr = OPTIMIZERS["sgd"].lr
    runs = ArtefactRuns(artifact.path, artifact.manifest, make_task().example, 0)
    own, metric = runs.step(lr, {}), runs.evaluate({}, make_task().example)
    trainer = artifact.trainer()
    np.testing.assert_array_equal(trainer.evaluate(batches(1)).values, metric)
    assert trainer.step(batches(1)[0]).loss == own.loss
    weight = own.state["trained:head.weight"].numpy()
    np.testing.assert_array_equal(trainer.state()["head.weight"], weight)
