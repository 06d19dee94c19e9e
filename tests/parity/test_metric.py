"""The metric of what is compiled is eager PyTorch's in evaluation mode, or it does not ship."""

from __future__ import annotations

import contextlib
import functools
import json
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mutants import mutated
from oracle import PLANS, built, feed
from torch import Tensor, nn

import pockgraph as pg
from pockgraph.artifact import Artifact
from pockgraph.capture import plain_operators
from pockgraph.errors import BatchError, ParityError, TaskError
from pockgraph.ir.graph import Graph, aten
from pockgraph.parity import metric as judge
from pockgraph.parity.metric import MetricCheck
from pockgraph.parity.tolerances import METRIC
from pockgraph.passes import Pipeline, run
from pockgraph.runtime.parity_record import ParityRecord
from pockgraph.targets import target_names

TARGETS = target_names()


class Net(nn.Module):
    """Token ids `[N, 6]` to logits `[N, 5]`; what evaluation must get right stands in it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(11, 8)
        self.dropout = nn.Dropout(0.3)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 5)
        self.norm.running_mean.normal_()  # pyright: ignore
        self.norm.running_var.uniform_(0.5, 2)  # pyright: ignore

    def forward(self, ids: Tensor) -> Tensor:
        x = self.dropout(self.embed(ids)).masked_fill((ids == 0)[..., None], 0.0)
        return self.head(self.norm(x.sum(1)).tanh())


def loss(net: nn.Module, b: Any) -> Tensor:
    return nn.functional.cross_entropy(net(b["ids"]), b["y"])


def likelihood(net: nn.Module, b: Any) -> Tensor:
    return net(b["ids"]).softmax(1).gather(1, b["y"][:, None])[:, 0]


def accuracy(net: nn.Module, b: Any) -> Tensor:
    return (net(b["ids"]).argmax(1) == b["y"]).float()


METRICS = {"likelihood": likelihood, "accuracy": accuracy}


@functools.cache
def graph_of(metric: Callable[[nn.Module, Any], Tensor] = likelihood, samples: int = 32) -> pg.TrainGraph:
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 11, (samples, 6), generator=g)
    batch = [{"ids": ids, "y": torch.randint(0, 5, (samples,), generator=g)}]
    task = pg.Task("sure", Net(), loss, metric, batch, batch, batch_norm="batch", dropout=True)
    return pg.build(task, pg.SGD(lr=0.1))


def wrong_graph(graph: Graph, kind: str) -> Graph:
    """The metric's graph with one mistake."""
    place, change = MISTAKES[kind]
    node = next(n for n in graph.nodes() if n.target is place)
    made: list[Any] = []

    def call(*operator_and_arguments: Any) -> Any:
        made.append(graph.fx.call_function(*operator_and_arguments))
        made[-1].meta = dict(node.meta)
        return made[-1]

    with graph.fx.inserting_before(node.next):
        new = change(call, node)
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user not in made)
    graph.fx.eliminate_dead_code()
    return graph


def _statistics_of_the_batch(call: Any, node: Any) -> Any:
    return call(aten.expand.default, (call(aten.mean.dim, (node, [0], True)), list(node.meta["val"].shape)))


def _dropout(call: Any, node: Any) -> Any:
    return call(operator.getitem, (call(aten.native_dropout.default, (node, 0.3, True)), 0))


MISTAKES: dict[str, tuple[Any, Callable[[Any, Any], Any]]] = {
    "a hundredth too large": (aten.embedding.default, lambda call, n: call(aten.mul.Scalar, (n, 1.01))),
    "the mask is dropped": (aten.masked_fill.Scalar, lambda call, n: call(aten.clone.default, (n.args[0],))),
    "dropout is on": (aten.embedding.default, _dropout),
    "another axis": (aten.tanh.default, lambda call, n: call(aten.flip.default, (n, [0]))),
    "another class": (aten.addmm.default, lambda call, n: call(aten.roll.default, (n, [1], [1]))),
    "the statistics of the batch": (aten.tanh.default, _statistics_of_the_batch),
}


def evaluated(graph: Graph) -> Callable[[Any, Any], Tensor]:
    return lambda start, batch: feed(graph, {**graph.values, **start}, batch, 0.0)[0]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", MISTAKES)
def test_a_wrong_metric_is_refused(kind: str, metric: str) -> None:
    graph = graph_of(METRICS[metric])
    right = run(graph.evaluation(), name="eval")
    check = MetricCheck(graph, METRIC)
    assert not check.check(evaluated(right), "onnx").refusal
    found = check.check(evaluated(wrong_graph(right, kind)), "onnx")
    if (kind, metric) != ("a hundredth too large", "accuracy"):  # which shows in no decision here
        assert "bug of the target 'onnx'" in found.refusal
        assert found.deviation > found.allowed


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("slot", ["trained:embed.weight", "buffer:norm.running_mean"])
def test_weights_and_statistics_that_stay_those_of_the_start_are_refused(slot: str, metric: str) -> None:
    graph = graph_of(METRICS[metric])
    right = graph.evaluation()
    assert slot in {s.name for s in right.state_slots}
    stale = lambda start, batch: evaluated(right)({n: v for n, v in start.items() if n != slot}, batch)  # noqa: E731
    assert MetricCheck(graph, METRIC).check(stale, "onnx").refusal


@pytest.mark.parametrize(
    ("model", "count"),
    [("mlp", 10), ("batch_norms", 4), pytest.param("transformer", 40, marks=pytest.mark.slow)],
)
def test_mutants_of_a_metrics_graph_are_refused(model: str, count: int) -> None:
    graph = built(model).prune(PLANS["half"](built(model)))
    right, check, missed = run(graph.evaluation(), name="eval"), MetricCheck(graph, METRIC), []
    for seed in range(count):
        wrong, what = mutated(right, seed, ("forward",))
        if not check.check(evaluated(wrong), "onnx").refusal and not what.startswith("wrong constant"):
            missed.append(what)
    assert not missed


# Each target with one of them; the other is a slow test.
@pytest.mark.parametrize(
    ("target", "metric"),
    [
        pytest.param(target, metric, marks=[pytest.mark.slow] * ((i + j) % 2))
        for i, target in enumerate(TARGETS)
        for j, metric in enumerate(METRICS)
    ],
)
def test_a_right_metric_ships_and_a_wrong_one_does_not(
    target: str, metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_of(METRICS[metric])
    found = pg.compile(graph, target=target, out=tmp_path / "out").manifest.parity
    assert isinstance(found, ParityRecord)
    assert found.ok
    assert found.metric_deviation is not None
    assert found.metric_deviation <= found.tolerance["metric"] == METRIC
    start = Pipeline.start

    def off(pipeline: Pipeline, graph: Graph, name: str, *how: Any) -> Graph:
        found = start(pipeline, graph, name, *how)
        return wrong_graph(found, "another class") if name == "eval" else found

    monkeypatch.setattr(Pipeline, "start", off)
    with pytest.raises(ParityError, match=f"metric that was compiled for '{target}'") as caught:
        pg.compile(graph, target=target, out=tmp_path / "wrong")
    assert "instead of" in str(caught.value)
    assert not (tmp_path / "wrong").exists()
    forced = pg.compile(graph, target=target, out=tmp_path / "wrong", force=True).manifest.parity
    assert isinstance(forced, ParityRecord)
    assert forced.forced
    assert not forced.ok


def test_a_graph_that_is_not_the_users_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was once: padded encoders were captured as if nothing were padded."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    encoder = nn.TransformerEncoder(layer, 1)
    padded = torch.arange(4).repeat(3, 1) >= torch.tensor([[2], [3], [4]])
    batch = [{"x": torch.randn(3, 4, 8), "padded": padded, "y": torch.randn(3)}]

    def values(net: nn.Module, b: Any) -> Tensor:
        return net(b["x"], src_key_padding_mask=b["padded"]).square().mean((1, 2))

    task = pg.Task(
        "padded", encoder, lambda net, b: (values(net, b) - b["y"]).square().mean(), values, batch, batch
    )
    monkeypatch.setattr(plain_operators, "padded_encoders", contextlib.nullcontext)
    graph = pg.build(task)
    with pytest.raises(ParityError, match=r"graph of the metric[\s\S]*before any target"):
        pg.compile(graph, target="torch", out=tmp_path / "out")


def test_a_metric_that_eager_pytorch_cannot_compute(tmp_path: Path) -> None:
    def beyond(net: nn.Module, b: Any) -> Tensor:
        return net(b["ids"]).gather(1, b["y"][:, None] + 100)[:, 0]

    def singular(net: nn.Module, b: Any) -> Tensor:
        scores = net(b["ids"]).detach() * 0
        return torch.linalg.inv(scores[:, :, None] * scores[:, None])[:, 0, 0]

    with pytest.raises(BatchError, match="y"):
        pg.compile(graph_of(beyond), target="torch", out=tmp_path / "out")
    with pytest.raises(TaskError, match="sure"):
        pg.compile(graph_of(singular), target="torch", out=tmp_path / "out")
    assert not any(tmp_path.iterdir())


# ---------------------------------------------------------------- ties, and rounding


class Tied(nn.Module):
    """Two classes of the same weights, whose products are added up in another order."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(64))

    def forward(self, x: Tensor) -> Tensor:
        products = x * self.weight
        return torch.stack([products.sum(1), products.flip(1).cumsum(1)[:, -1]], 1)


def tied() -> pg.TrainGraph:
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    batch = [{"ids": x, "y": torch.arange(16) % 2}]
    return pg.build(pg.Task("tied", Tied(), loss, accuracy, batch, batch))


@pytest.mark.parametrize("target", TARGETS)
def test_a_sample_within_rounding_of_a_tie_may_go_either_way(target: str, tmp_path: Path) -> None:
    found = pg.compile(tied(), target=target, out=tmp_path / "out").manifest.parity
    assert isinstance(found, ParityRecord)
    assert found.ok


def test_only_those_samples_may() -> None:
    right = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    flips = right.clone()
    flips[2] = 0.0
    room = judge.width(right, [right, flips])
    assert not judge.compare(flips, right, room, 1e-5).wrong.any()
    other = right.clone()
    other[3] = 1.0
    assert judge.compare(other, right, room, 1e-5).wrong.tolist() == [False, False, False, True, False]


@pytest.mark.parametrize(("got", "wrong"), [(1.0, False), (1.0001, True), (float("nan"), True)])
def test_what_is_not_finite_must_be_the_same(got: float, wrong: bool) -> None:
    right = torch.tensor([1.0, float("nan"), float("inf")], dtype=torch.float64)
    given = torch.tensor([got, float("nan"), float("inf")]).double()
    found = judge.compare(given, right, torch.zeros(3), 1e-5)
    assert bool(found.wrong.any()) == wrong


def test_a_record_without_a_metric_can_still_be_read(tmp_path: Path) -> None:
    record = pg.compile(graph_of(), target="torch", out=tmp_path / "out").manifest.parity
    assert isinstance(record, ParityRecord)
    path = tmp_path / "out" / "manifest.json"
    data = json.loads(path.read_text())
    del data["parity"]["metric_deviation"], data["parity"]["tolerance"]["metric"]
    path.write_text(json.dumps(data))
    old = Artifact.load(tmp_path / "out").manifest.parity
    assert isinstance(old, ParityRecord)
    assert old.ok
    assert old.metric_deviation is None
