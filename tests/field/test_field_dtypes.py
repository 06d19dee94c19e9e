"""Data as numpy and pandas make it: doubles, halves, narrow integers, bytes and booleans."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from users import assert_as_eager, batches, cross_entropy, mlp, task

import pockgraph as pg
from pockgraph.errors import BatchError

PLAIN = batches(8, 12)


def losses(data: list[dict[str, Any]], target: str, out: Path, **how: Any) -> list[float]:
    trainer = pg.compile(
        pg.build(task(mlp(), data, **how), pg.SGD(lr=0.05)), target=target, out=out
    ).trainer()
    return [trainer.step(b).loss for b in data]


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(0)


def test_doubles_and_narrow_labels_from_numpy(target: str, tmp_path: Path) -> None:
    plain = losses(PLAIN, target, tmp_path / "plain")
    for i, (x, y) in enumerate([(np.float64, np.int32), (np.float64, np.int16)]):
        torch.manual_seed(0)
        data = [{"x": b["x"].numpy().astype(x), "y": b["y"].numpy().astype(y)} for b in PLAIN]
        assert losses(data, target, tmp_path / str(i)) == plain


def test_half_precision_data_into_a_float_model(target: str, tmp_path: Path) -> None:
    half = [{"x": b["x"].half(), "y": b["y"]} for b in PLAIN]
    plain = losses([{"x": b["x"].float(), "y": b["y"]} for b in half], target, tmp_path / "plain")
    torch.manual_seed(0)
    assert losses(half, target, tmp_path / "half") == plain


def test_regression_targets_in_double(target: str, tmp_path: Path) -> None:
    def squared(m: nn.Module, b: Any) -> Tensor:
        return F.mse_loss(m(b["x"]), b["t"])

    plain = [{"x": b["x"], "t": b["x"][:, :5]} for b in PLAIN]
    wanted = losses(plain, target, tmp_path / "plain", loss=squared)
    torch.manual_seed(0)
    data = [{k: v.numpy().astype(np.float64) for k, v in b.items()} for b in plain]
    assert losses(data, target, tmp_path / "double", loss=squared) == wanted


def test_an_analysis_of_doubles(tmp_path: Path) -> None:
    data = [{"x": b["x"].double(), "y": b["y"].int()} for b in batches(8, 12, count=6)]
    study = pg.Study(tmp_path / "study.db", task(mlp(), data))
    study.analyze(steps=1)
    assert study.contribution is not None


def test_images_of_bytes_that_the_loss_scales(target: str, tmp_path: Path) -> None:
    def scaled(m: nn.Module, b: Any) -> Tensor:
        return F.cross_entropy(m(b["x"].float() / 255), b["y"])

    data = [{"x": (b["x"] * 50 + 128).clamp(0, 255).byte(), "y": b["y"]} for b in PLAIN]
    metric = lambda m, b: m(b["x"].float() / 255).sum(1)  # noqa: E731
    assert np.isfinite(losses(data, target, tmp_path / "o", loss=scaled, metric=metric)).all()


# ---------------------------------------------------------------- dtypes inside the step


class Between(nn.Module):
    """A layer's result goes through another dtype; `also` computes there."""

    def __init__(self, dtype: torch.dtype, also: Any = lambda h: h) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 16), nn.Linear(16, 5)
        self.dtype, self.also = dtype, also

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.also(self.first(x).to(self.dtype)).float().relu())


def cross_entropy_in_double(m: nn.Module, b: Any) -> Tensor:
    return F.cross_entropy(m(b["x"]).double(), b["y"])


def distance_to_a_numpy_constant(m: nn.Module, b: Any) -> Tensor:
    return (m(b["x"]) - torch.from_numpy(np.linspace(0, 1, 5))).pow(2).mean()


def with_narrow_labels(m: nn.Module, b: Any) -> Tensor:
    return F.cross_entropy(m(b["x"]), b["y"].byte().long()) + (m(b["x"]) * b["y"].int().unsqueeze(1)).mean()


def masked(m: nn.Module, b: Any) -> Tensor:
    return F.cross_entropy(m(b["x"] * (b["x"] > 0)), b["y"]) + (m(b["x"]).argmax(1) == b["y"]).float().mean()


def wrapping_bytes(m: nn.Module, b: Any) -> Tensor:
    return F.cross_entropy(m(b["x"]), b["y"]) + (m(b["x"]).sum(1) * (b["y"].byte() + 254)).mean()


WITHIN: dict[str, tuple[Any, Any, dict[str, str]]] = {
    "a loss in double": (mlp, cross_entropy_in_double, {"onnx": r"not in torch\.float64; cast with \.float"}),
    "a numpy constant": (mlp, distance_to_a_numpy_constant, {"onnx": r"not in torch\.float64; cast with"}),
    "labels as bytes and int32": (mlp, with_narrow_labels, {}),
    "boolean masks": (mlp, masked, {}),
    "bytes that wrap around": (
        mlp,
        wrapping_bytes,
        {"openvino": r"wrap around in torch\.uint8.*cast with \.int", "onnx": r"not in torch\.uint8; cast"},
    ),
    "a layer in double": (lambda: Between(torch.float64), None, {}),
    "a layer in half": (lambda: Between(torch.float16), None, {"openvino": r"float16 in float32.*leave the"}),
    "a layer in bfloat16": (
        lambda: Between(torch.bfloat16),
        None,
        {"openvino": "no dtype torch.bfloat16", "onnx": "no dtype torch.bfloat16"},
    ),
    "tanh in half": (
        lambda: Between(torch.float16, torch.tanh),
        None,
        {"openvino": "float16 in float32", "onnx": r"not in torch\.float16; cast with \.float"},
    ),
}


@pytest.mark.parametrize("what", WITHIN)
def test_other_dtypes_within_a_step_are_eagers_or_refused_with_the_line(
    what: str, target: str, tmp_path: Path
) -> None:
    make, loss, refused = WITHIN[what]
    net = make()
    case = task(net, PLAIN, **({} if loss is None else {"loss": loss}))
    graph = pg.build(case, pg.SGD(lr=0.05))
    found = graph.check(target)
    if target in refused:
        assert not found.ok
        text = " ".join(str(found).split())
        assert re.search(refused[target], text), text
        assert "test_field_dtypes.py:" in text
        return
    assert found.ok, str(found)
    trainer = pg.compile(graph, target=target, out=tmp_path / "o").trainer()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for batch in PLAIN:
        optimizer.zero_grad()
        value = case.loss(net, batch)
        value.backward()
        optimizer.step()
        assert trainer.step(batch).loss == pytest.approx(value.item(), rel=3e-6)
    for name, weight in net.state_dict().items():
        np.testing.assert_allclose(trainer.state()[name], weight.numpy(), rtol=1e-5, atol=1e-6)


BYTES = [{"x": b["x"], "y": b["y"].byte()} for b in PLAIN]


@pytest.mark.parametrize(
    "loss",
    [
        cross_entropy,
        lambda m, b: F.nll_loss(m(b["x"]).log_softmax(1), b["y"], ignore_index=3),
        lambda m, b: nn.CrossEntropyLoss(label_smoothing=0.1)(m(b["x"]), b["y"]),
    ],
    ids=["cross_entropy", "nll_loss", "smoothed"],
)
def test_labels_as_bytes_train_as_in_eager_pytorch(loss: Any, target: str) -> None:
    assert_as_eager(task(mlp(), BYTES, loss), target)


def test_a_label_as_a_byte_beyond_the_classes(target: str, tmp_path: Path) -> None:
    trainer = pg.compile(pg.build(task(mlp(), BYTES)), target=target, out=tmp_path / "o").trainer()
    with pytest.raises(BatchError, match=r"'y' of task 'field' holds 200 .* class labels of a loss over 5"):
        trainer.step({**BYTES[0], "y": torch.full_like(BYTES[0]["y"], 200)})


@pytest.mark.parametrize(
    "loss",
    [
        lambda m, b: F.cross_entropy(m(b["x"])[:, :, None].expand(-1, -1, 2), b["y"][:, None].expand(-1, 2)),
        lambda m, b: m(b["x"]).gather(1, b["y"][:, None]).mean(),
    ],
    ids=["of each place", "gather"],
)
def test_bytes_that_pytorch_takes_for_no_indices_are_refused_at_build_with_the_remedy(loss: Any) -> None:
    with pytest.raises(pg.errors.CaptureError, match=r"labels and indices of uint8 .* with \.long\(\)"):
        pg.build(task(mlp(), BYTES, loss))
