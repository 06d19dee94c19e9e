"""Networks whose gradients are partly rounding: right steps compile, wrong ones do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hard_networks import Cosine, Kinks, Normalised
from torch import Tensor, nn
from users import MOMENTUM, assert_as_eager, batches, task

import pockgraph as pg
from pockgraph.errors import ParityError
from pockgraph.ir.graph import Graph, aten
from pockgraph.optimizer import Optimizer
from pockgraph.runtime.parity_record import ParityRecord


def compiled(net: nn.Module, data: list[dict[str, Tensor]], optimizer: Optimizer, target: str, out: Path,
             **how: str) -> ParityRecord:  # fmt: skip
    found = pg.compile(pg.build(task(net, data, **how), optimizer), target=target, out=out).manifest.parity
    assert isinstance(found, ParityRecord)
    assert found.ok
    assert not found.forced
    return found


def convolutions() -> nn.Sequential:
    """Convolutions with their default bias ahead of batch norms."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


OPTIMIZERS: dict[str, Optimizer] = {
    "momentum": MOMENTUM,
    "adamw": pg.AdamW(lr=1e-3),
    "lion": pg.Lion(lr=1e-3),
    "adafactor": pg.Adafactor(lr=1e-2),
    "everything": pg.Adam(lr=1e-3, accumulate=2, clip_norm=0.1, ema_decay=0.9),
}


def test_default_convolutions_ahead_of_batch_norms_in_training_mode(target: str, tmp_path: Path) -> None:
    everything = OPTIMIZERS["everything"]
    found = compiled(
        convolutions(), batches(8, 3, 32, 32), everything, target, tmp_path / "o", batch_norm="batch"
    )
    assert found.referee == "float64"


def test_batch_norm_in_training_mode_trains_as_in_eager_pytorch(target: str) -> None:
    assert_as_eager(task(convolutions(), batches(8, 3, 32, 32), batch_norm="batch"), target)


def test_kinks_of_activations_below_batch_norms_are_taken_for_rounding(target: str, tmp_path: Path) -> None:
    compiled(Kinks(), batches(8, 3, 16, 16), MOMENTUM, target, tmp_path / "o", batch_norm="batch")


@pytest.mark.parametrize("net", [Cosine, Normalised])
@pytest.mark.parametrize("optimizer", ["momentum", "lion"])
def test_heads_whose_scale_does_not_matter(
    net: Callable[[], nn.Module], optimizer: str, target: str, tmp_path: Path
) -> None:
    compiled(net(), batches(16, 12), OPTIMIZERS[optimizer], target, tmp_path / "o")


def attention() -> nn.Sequential:
    """The bias of the keys has no gradient."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(160, 5))


def test_attention_and_layer_norm_with_optimizers_that_divide(target: str, tmp_path: Path) -> None:
    optimizer = "adamw" if target == "openvino" else "adafactor"
    compiled(attention(), batches(4, 10, 16), OPTIMIZERS[optimizer], target, tmp_path / "o")


def test_biases_alone_ahead_of_batch_norms(target: str, tmp_path: Path) -> None:
    graph = pg.build(task(convolutions(), batches(8, 3, 24, 24), batch_norm="batch"), pg.AdamW(lr=1e-3))
    plan = pg.Plan.of(graph, {"0.bias": 1.0, "3.bias": 1.0, "8.bias": 1.0, "3.weight": 0.25})
    pg.compile(graph, plan, target=target, out=tmp_path / "o")


def test_a_loss_that_closes_over_its_model_and_class_weights(target: str, tmp_path: Path) -> None:
    net, weights = convolutions(), torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    data = batches(8, 3, 24, 24)
    closed = task(
        net, data, loss=lambda _, b: F.cross_entropy(net(b["x"]), b["y"], weight=weights), batch_norm="batch"
    )
    pg.compile(pg.build(closed, MOMENTUM), target=target, out=tmp_path / "o")


# ---------------------------------------------------------------- what is wrong


def negated_channel(graph: Graph, fqn: str) -> None:
    """The gradient of a tensor's second channel with the wrong sign."""
    for node in [n for n in graph.fx.nodes if fqn in n.meta.get("gradient_of", ())]:
        with graph.fx.inserting_after(node):
            part = graph.fx.call_function(aten.slice.Tensor, (node, 0, 1, 2))
        with graph.fx.inserting_after(part):
            minus = graph.fx.call_function(aten.neg.default, (part,))
        with graph.fx.inserting_after(minus):
            new = graph.fx.call_function(aten.slice_scatter.default, (node, minus, 0, 1, 2))
        new.meta = dict(node.meta)
        del node.meta["gradient_of"]
        part.meta = minus.meta = {**node.meta, "val": node.meta["val"][1:2]}
        made = {part, new}
        node.replace_all_uses_with(new, delete_user_cb=lambda user, made=made: user not in made)


@pytest.mark.parametrize("fqn", ["0.weight", "8.bias"])
def test_a_wrong_sign_in_one_channel_below_a_batch_norm_is_refused(fqn: str, tmp_path: Path) -> None:
    graph = pg.build(task(convolutions(), batches(8, 3, 24, 24), batch_norm="batch"), MOMENTUM)
    negated_channel(graph, fqn)
    with pytest.raises(ParityError, match=rf"gradient of {fqn} is off[\s\S]*Another target does not help"):
        pg.compile(graph, target="torch", out=tmp_path / "o")


@pytest.mark.parametrize("optimizer", ["momentum", "adamw", "lion"])
def test_a_first_batch_without_gradients(optimizer: str, target: str, tmp_path: Path) -> None:
    """A triplet loss, where no sample has another class: every margin is kept."""

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        embedded = model(batch["x"])
        distance, same = torch.cdist(embedded, embedded), batch["y"][:, None] == batch["y"]
        hardest = distance.masked_fill(~same, 0.0).amax(1) - distance.masked_fill(same, 100.0).amin(1)
        return F.relu(hardest + 0.3).mean()

    torch.manual_seed(0)
    first, *others = batches(6, 12)
    data = [{**first, "y": torch.zeros(6, dtype=torch.int64)}, *others]
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5))
    pg.compile(pg.build(task(net, data, loss), OPTIMIZERS[optimizer]), target=target, out=tmp_path / "o")


def test_a_root_of_zero_whose_gradient_is_nan_in_eager_pytorch_too(target: str, tmp_path: Path) -> None:
    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        scores = model(batch["x"])
        return (scores[:, None] - scores).square().sum(-1).sqrt().mean()

    graph = pg.build(task(nn.Linear(12, 5), batches(4, 12), loss), MOMENTUM)
    says = (
        r"gradient of weight is not finite in eager PyTorch itself[\s\S]*clamp_min\(1e-12\) ahead of a \.sqrt"
        r"[\s\S]*a torch\.where behind it is too late"
    )
    with pytest.raises(ParityError, match=says):
        pg.compile(graph, target=target, out=tmp_path / "o")


# ---------------------------------------------------------------- measuring


def changed_model(graph: pg.TrainGraph) -> None:
    net = graph.task.model
    net[0].weight = nn.Parameter(net[0].weight.detach() + 0.1)  # pyright: ignore


def test_a_study_of_a_model_that_was_changed_after_its_graph_was_built_measures_nothing(
    tmp_path: Path,
) -> None:
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5))
    study = pg.Study(tmp_path / "s.db", task(net, batches(8, 12, count=6)))
    changed_model(study.graph)
    with pytest.raises(
        ParityError, match=r"does not agree with eager PyTorch[\s\S]*build it again[\s\S]*force=True"
    ):
        study.analyze(steps=2, lr=0.01)
    assert not [m for m in study.measurements() if m.status == "done"]
    study.analyze(steps=2, lr=0.01, force=True)
    assert [m for m in study.measurements() if m.status == "done"]
