"""What the graphs of an artefact have in common is on disk once."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import pockgraph as pg
from pockgraph.artifact import Artifact
from pockgraph.runtime import Predictor, Trainer

WIDTH = 256
FILES = {"openvino": "train.bin", "onnx": "train.onnx.bin"}


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["x"])


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(logits(model, batch), batch["y"])


def metric(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return -nn.functional.cross_entropy(logits(model, batch), batch["y"], reduction="none")


@pytest.fixture(scope="module")
def graph() -> pg.TrainGraph:
    """Two layers of 256 kB each, and a head."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(2)), nn.Linear(WIDTH, 4)
    )
    data = [{"x": torch.randn(4, WIDTH), "y": torch.arange(4)}]
    return pg.build(pg.Task("wide", net, loss, metric, data, data, predict=logits), pg.SGD(lr=0.1))


def compiled(graph: pg.TrainGraph, target: str, out: Path) -> Artifact:
    return pg.compile(graph, pg.Plan.head(graph), target=target, out=out)


@pytest.mark.parametrize("target", FILES)
def test_frozen_weights_are_on_disk_once(graph: pg.TrainGraph, target: str, tmp_path: Path) -> None:
    artifact = compiled(graph, target, tmp_path / "out")
    constants = [n for n in artifact.manifest.files if n.endswith(".bin")]
    assert constants == [FILES[target]]
    frozen = 4 * (2 * WIDTH * WIDTH)
    assert frozen <= artifact.manifest.files[FILES[target]].bytes < 1.1 * frozen
    again = compiled(graph, target, tmp_path / "again")
    assert again.manifest.files[FILES[target]] == artifact.manifest.files[FILES[target]]  # the same bytes


@pytest.mark.parametrize("target", FILES)
def test_answers_with_weights_that_are_compiled_in_read_the_same_file(
    graph: pg.TrainGraph, target: str, tmp_path: Path
) -> None:
    folder = compiled(graph, target, tmp_path / "out").path
    batch = {"x": np.linspace(-1, 1, 3 * WIDTH, dtype=np.float32).reshape(3, WIDTH)}
    with Trainer.load(folder, threads=1) as trainer:
        right = trainer.predict(batch)
    with Predictor.load(folder, threads=1, constant_weights=True) as predictor:
        np.testing.assert_allclose(predictor.predict(batch), right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", FILES)
def test_graphs_with_constants_of_their_own_are_read(
    graph: pg.TrainGraph, target: str, tmp_path: Path
) -> None:
    """As older versions wrote them."""
    folder = compiled(graph, target, tmp_path / "out").path
    batch = {"x": np.ones((4, WIDTH), np.float32), "y": np.arange(4)}
    right = Trainer.load(folder, threads=1).evaluate([batch]).values
    if target == "onnx":
        path = folder / "eval.onnx"
        own = "eval.onnx.bin"
        onnx.save_model(onnx.load(path), path, save_as_external_data=True, location=own, size_threshold=65536)
    else:
        own = "eval.bin"
        shutil.copy(folder / "train.bin", folder / own)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in (own, "eval.onnx" if target == "onnx" else "eval.xml"):
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    trainer = Trainer.load(folder, threads=1)
    assert np.array_equal(trainer.evaluate([batch]).values, right)
    (folder / own).write_bytes(b"")
    with pytest.raises(pg.PockError, match=rf"{own} has 0 bytes"):
        Trainer.load(folder, threads=1)
