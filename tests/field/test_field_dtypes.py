"""Data as numpy and pandas make it: doubles, halves, narrow integers, bytes and booleans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from users import batches, mlp, task

import pockgraph as pg

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
