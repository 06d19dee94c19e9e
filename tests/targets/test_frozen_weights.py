"""Frozen matrices in int8: exact against PyTorch with the rounded weights, and the cost of rounding."""

from __future__ import annotations

import copy
import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pockgraph as pg
from pockgraph.artifact import Artifact
from pockgraph.errors import ArtifactError, ParityError, PockError
from pockgraph.parity.rounded_weights import weights_in
from pockgraph.passes.int8_weights import Int8Rows, numbers_and_scales, rounded
from pockgraph.runtime import Predictor, Trainer
from pockgraph.runtime.parity_record import ParityRecord, RoundingCost
from pockgraph.targets import openvino
from pockgraph.task.batch import Batch
from pockgraph.train_graph import TrainGraph
from pockgraph.train_graph.frozen_weights import with_int8_weights
from pockui.info.parity import parity_badge

VOCABULARY, WIDTH, HEADS, TOKENS = 61, 48, 4, 6
INT8 = {"frozen_weights": "int8"}


class Block(nn.Module):
    """Square projections, which are packed once by OpenVINO's CPU plugin, and others."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        shape = *x.shape[:2], HEADS, -1
        q, k, v = (linear(self.norm(x)).view(shape).transpose(1, 2) for linear in self.qkv)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.silu(self.up(self.norm2(x))))


class Language(nn.Module):
    """Its head is tied to its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.block = Block()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.block(self.embed(ids)))


def each(net: nn.Module, batch: Batch) -> Tensor:
    ids = batch["ids"]
    return F.cross_entropy(net(ids[:, :-1]).transpose(1, 2), ids[:, 1:], reduction="none").mean(1)


def make_task() -> pg.Task:
    torch.manual_seed(0)
    net = Language()
    with torch.no_grad():
        net.embed.weight.mul_(0.3)
    batches = [{"ids": torch.randint(0, VOCABULARY, (4, TOKENS + 1))} for _ in range(3)]
    return pg.Task(
        "language", net, lambda net, b: each(net, b).mean(), lambda net, b: -each(net, b), batches, batches,
        predict=lambda net, b: net(b["ids"]), predict_sizes=(4,),
    )  # fmt: skip


CHOICES = {
    "weights": {"block.qkv.0.weight": 1.0, "block.up.weight": 1.0},
    "biases and channels": {"block.out.bias": 1.0, "block.up.weight": 0.5},
    "the tied table": {"embed.weight": 1.0},
}


@pytest.fixture(scope="module")
def graph() -> TrainGraph:
    return pg.build(make_task(), pg.SGD(lr=0.5, momentum=0.9))


def plan_of(graph: TrainGraph, choice: str) -> pg.Plan:
    return pg.Plan.of(graph, CHOICES[choice])


@pytest.fixture(scope="module")
def artifact(graph: TrainGraph, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("int8") / "out"
    return pg.compile(graph, plan_of(graph, "weights"), out=out, options=INT8)


@pytest.fixture(scope="module")
def exact(graph: TrainGraph, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return pg.compile(graph, plan_of(graph, "weights"), out=tmp_path_factory.mktemp("f32") / "out")


def cost_of(artifact: Artifact) -> RoundingCost:
    record = artifact.manifest.parity
    assert isinstance(record, ParityRecord)
    assert record.ok
    assert record.frozen_weights
    return record.frozen_weights


def constants(folder: Path, kind: str) -> list[tuple[int, int]]:
    """(offset, bytes) of the constants of an element type, of all graphs of an artefact."""
    found = []
    for xml in folder.glob("*.xml"):
        pattern = rf'element_type="{kind}"[^<>]*offset="(\d+)" size="(\d+)"'
        found += [(int(a), int(b)) for a, b in re.findall(pattern, xml.read_text())]
    return found


# ---------------------------------------------------------------- a step


@pytest.mark.parametrize("choice", CHOICES)
def test_steps_are_those_of_pytorch_with_the_rounded_weights(
    graph: TrainGraph, artifact: Artifact, choice: str, tmp_path: Path
) -> None:
    plan = plan_of(graph, choice)
    own = choice == "weights"
    compiled = artifact if own else pg.compile(graph, plan, out=tmp_path / "out", options=INT8)
    assert cost_of(compiled).tensors == 7 - sum("weight" in n for n in plan.tensors)
    _, weights = with_int8_weights(graph.prune(plan))
    assert not weights.keys() & plan.tensors.keys()
    net = copy.deepcopy(graph.task.model)
    named = dict(net.named_parameters())
    for fqn, value in weights.items():
        named[fqn].data = value
    net.requires_grad_(False)
    learnt = {}
    for fqn, how in plan.tensors.items():
        named[fqn].requires_grad_(True)
        learnt[fqn] = torch.zeros_like(named[fqn], dtype=torch.bool)
        where = slice(None) if how.channels is None else torch.tensor(how.channels)
        learnt[fqn].transpose(0, how.dim or 0)[where] = True
    optimizer = torch.optim.SGD([named[fqn] for fqn in plan.tensors], lr=0.5, momentum=0.9)
    trainer = Trainer.load(compiled.path)
    for batch in graph.task.train:
        optimizer.zero_grad()
        loss = graph.task.loss(net, batch)
        loss.backward()
        for fqn, mask in learnt.items():
            named[fqn].grad *= mask  # pyright: ignore
        optimizer.step()
        got = trainer.step({"ids": batch["ids"].numpy()}).loss
        assert got == pytest.approx(float(loss.detach()), rel=2e-5)
    for fqn, value in trainer.state().items():
        if fqn in plan.tensors:
            np.testing.assert_allclose(value, named[fqn].detach().numpy(), rtol=1e-4, atol=2e-6)
    batch = next(iter(graph.task.eval))
    with torch.no_grad():
        expected = graph.task.metric(net, batch)
    found = trainer.evaluate([{"ids": batch["ids"].numpy()}])
    assert found.metric == pytest.approx(float(expected.mean()), rel=2e-5)


@pytest.mark.parametrize("rows", [1, 4, 7, 8])
def test_few_rows(rows: int, tmp_path: Path) -> None:
    """OpenVINO's CPU plugin (2026.4) has other kernels for them, one of which is wrong."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 72), nn.Tanh(), nn.Linear(72, 30))

    def each(net: nn.Module, batch: Batch) -> Tensor:
        return net(batch["x"]).square().mean(1)

    batches = [{"x": torch.randn(rows, 40)}]
    task = pg.Task("rows", net, lambda net, b: each(net, b).mean(), each, batches, batches)
    graph = pg.build(task, pg.SGD(lr=0.1))
    plan = pg.Plan.of(graph, {"0.bias": 1.0})
    assert cost_of(pg.compile(graph, plan, out=tmp_path / "out", options=INT8)).tensors == 3


def test_the_cost_is_measured_against_the_weights_as_they_were(graph: TrainGraph, artifact: Artifact) -> None:
    cost, net = cost_of(artifact), graph.task.model
    _, weights = with_int8_weights(graph.prune(artifact.plan))
    batch = next(iter(graph.task.train))
    with torch.no_grad():
        exact = float(graph.task.loss(net, batch))
        with weights_in(net, weights):
            found = float(graph.task.loss(net, batch))
    assert found != exact
    assert cost.loss_deviation == pytest.approx(abs(found - exact) / exact, rel=1e-3)
    assert cost.elements == sum(w.numel() for w in weights.values())
    assert cost.gradient_deviation is not None
    assert cost.worst_gradient_deviation is not None
    assert 1e-4 < cost.gradient_deviation < 0.1
    assert cost.worst_gradient in artifact.plan.tensors
    assert cost.gradient_deviation <= cost.worst_gradient_deviation
    said = parity_badge(artifact.manifest.parity_json).detail
    assert "int8" in said
    assert f"{cost.loss_deviation:.1e}" in said
    assert f"int8, which moves the loss by {cost.loss_deviation:.1e}" in artifact._repr_html_()


def test_the_model_is_left_as_it_was(graph: TrainGraph, artifact: Artifact) -> None:
    net, fresh = graph.task.model, make_task().model
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), fresh.state_dict().values()))
    # What was captured are still the model's own tensors.
    assert graph.gradients.values["param:embed.weight"].data_ptr() == net.embed.weight.data_ptr()  # pyright: ignore


# ---------------------------------------------------------------- what is stored


def test_each_matrix_is_stored_once_in_a_byte_an_element(artifact: Artifact, exact: Artifact) -> None:
    small, large = ((a.path / "train.bin").stat().st_size for a in (artifact, exact))
    # A square one a second time, where the backward pass multiplies by it: the output projection's.
    stored = set(constants(artifact.path, "i8"))
    assert len(stored) == cost_of(artifact).tensors + 1
    elements = cost_of(artifact).elements + WIDTH**2
    assert sum(size for _, size in stored) == elements
    others = large - 4 * elements
    assert small - others < 0.3 * 4 * elements
    assert max(size for _, size in constants(artifact.path, "f32")) < 4096
    assert not constants(exact.path, "i8")


def test_predictions_and_checkpoints_go_on(graph: TrainGraph, artifact: Artifact, tmp_path: Path) -> None:
    batches = [{"ids": b["ids"].numpy()} for b in graph.task.train]
    trainer = Trainer.load(artifact.path)
    trainer.step(batches[0])
    trainer.save(tmp_path / "checkpoint")
    predictor = Predictor.load(artifact.path, checkpoint=tmp_path / "checkpoint")
    np.testing.assert_allclose(
        predictor.predict(batches[1]), trainer.predict(batches[1]), rtol=1e-5, atol=1e-6
    )
    expected = trainer.step(batches[1]).loss
    again = Trainer.load(artifact.path)
    again.load_checkpoint(tmp_path / "checkpoint")
    assert again.step(batches[1]).loss == pytest.approx(expected, rel=1e-6)


def test_what_is_read_in_another_way_stays_as_it_is() -> None:
    def each(net: nn.Module, batch: Batch) -> Tensor:
        return net(batch["x"]).square().mean(1) + net[1].weight.square().sum()  # pyright: ignore

    net = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 8))
    batches = [{"x": torch.randn(3, 40)}]
    task = pg.Task("penalised", net, lambda net, b: each(net, b).mean(), each, batches, batches)
    graph = pg.build(task, pg.SGD(lr=0.1))
    _, found = with_int8_weights(graph.prune(pg.Plan.of(graph, {"2.bias": 1.0})))
    assert found.keys() == {"0.weight"}  # the last one is small


def test_a_matrix_that_is_multiplied_by_as_it_lies_stays_as_it_is(tmp_path: Path) -> None:
    class AsItLies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(40, 40), nn.Linear(64, 8)
            self.weight = nn.Parameter(torch.randn(40, 64) / 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.relu(self.first(x)) @ self.weight)

    def each(net: nn.Module, batch: Batch) -> Tensor:
        return net(batch["x"]).square().mean(1)

    batches = [{"x": torch.randn(3, 40)}]
    task = pg.Task("as it lies", AsItLies(), lambda net, b: each(net, b).mean(), each, batches, batches)
    graph = pg.build(task, pg.SGD(lr=0.1))
    plan = pg.Plan.of(graph, {"last.bias": 1.0})
    assert with_int8_weights(graph.prune(plan))[1].keys() == {"first.weight"}
    assert cost_of(pg.compile(graph, plan, out=tmp_path / "out", options=INT8)).tensors == 1


def test_threads_that_compile_at_once_leave_the_model_as_it_was() -> None:
    net = nn.Linear(2, 2)
    own = net.weight.detach().clone()
    held, other_began = threading.Event(), threading.Event()

    def other() -> None:
        held.wait()
        other_began.set()
        with weights_in(net, {"weight": torch.ones(2, 2)}):
            assert torch.equal(net.weight, torch.ones(2, 2))

    thread = threading.Thread(target=other)
    thread.start()
    with weights_in(net, {"weight": torch.zeros(2, 2)}):
        held.set()
        other_began.wait()
        thread.join(0.05)  # time to read what is none of the model's
        assert torch.equal(net.weight, torch.zeros(2, 2))
    thread.join()
    assert torch.equal(net.weight, own)


# ---------------------------------------------------------------- what is refused


def test_a_wrong_scale_does_not_ship(
    graph: TrainGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(value: Tensor) -> Int8Rows | None:
        found = numbers_and_scales(value)
        return found and Int8Rows(found.numbers, found.scales * (1 + 1e-2))

    monkeypatch.setattr(openvino, "numbers_and_scales", off)
    with pytest.raises(ParityError, match="does not do what the training graph"):
        pg.compile(graph, plan_of(graph, "weights"), out=tmp_path / "out", options=INT8)
    assert not (tmp_path / "out").exists()


def test_refusals(graph: TrainGraph, tmp_path: Path) -> None:
    plan, out = plan_of(graph, "weights"), tmp_path / "out"
    with pytest.raises(PockError, match=r"'onnx' has no option 'frozen_weights'.*'openvino' has it"):
        pg.compile(graph, plan, target="onnx", out=out, options=INT8)
    with pytest.raises(PockError, match=r"no option 'frozen_weight'. Did you mean 'frozen_weights'"):
        pg.compile(graph, plan, out=out, options={"frozen_weight": "int8"})
    with pytest.raises(PockError, match=r"no frozen_weights 'int4'. Did you mean 'int8'"):
        pg.compile(graph, plan, out=out, options={"frozen_weights": "int4"})
    with pytest.raises(PockError, match=r"nothing to store in int8.*Leave the option out"):
        pg.compile(graph, None, out=out, options=INT8)
    assert not out.exists()


def test_a_value_that_this_version_does_not_know(artifact: Artifact, tmp_path: Path) -> None:
    folder = tmp_path / "later"
    folder.mkdir()
    for path in artifact.path.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["options"]["frozen_weights"] = "int2"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="stores frozen weights in 'int2'; this version knows f32, int8"):
        Trainer.load(folder)


def test_records_without_it_are_as_before(exact: Artifact) -> None:
    assert "frozen_weights" not in (exact.path / "manifest.json").read_text()
    assert "int8" not in parity_badge(exact.manifest.parity_json).detail


# ---------------------------------------------------------------- rounding


def test_rounding_moves_an_element_by_half_a_scale_and_is_undone_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(300, 40, generator=generator) * torch.logspace(-28, 28, 300)[:, None]
    value[7] = 0.0
    found = rounded(value)
    assert found is not None
    largest = value.abs().amax(1, keepdim=True)
    assert bool(((found - value).abs() <= largest / 254 * (1 + 2e-5)).all())
    parts = numbers_and_scales(found)
    assert parts is not None
    assert parts.numbers.dtype == torch.int8
    assert set(parts.numbers.abs().amax(1).tolist()) == {0, 127}
    assert torch.equal(parts.numbers * parts.scales, found)
    assert torch.equal(parts.numbers.double() * parts.scales.double(), found.double())
    again = rounded(found)
    assert again is not None
    assert torch.equal(again, found)
    assert numbers_and_scales(value) is None


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, torch.finfo(torch.float32).max])
def test_what_int8_cannot_hold_is_left_alone(bad: float) -> None:
    value = torch.ones(3, 4)
    value[1, 2] = bad
    assert rounded(value) is None
    smallest = torch.full((2, 3), 1e-42)
    assert torch.equal(rounded(smallest), torch.zeros(2, 3))  # pyright: ignore
