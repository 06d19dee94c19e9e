"""Users' checkpoints: which artefact they fit, what their headers say, and those of the first version."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from artifact_files import DATA, compiled, tanh
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn
from users import batches, mlp

import pockgraph as pg
from pockgraph.errors import ArtifactError
from pockgraph.runtime import Trainer
from pockgraph.runtime.checkpoint import save_checkpoint


def smoothed(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"], label_smoothing=0.1)


def weighted(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"], weight=torch.tensor([1.0, 2, 1, 1, 1]))


@pytest.mark.parametrize(
    "other",
    [
        {"net": tanh},
        {"loss": smoothed},
        {"loss": weighted},
        {"net": lambda: nn.Sequential(*mlp(), nn.ReLU())},
    ],
    ids=["another activation", "another loss", "class weights", "an operator more"],
)
def test_a_checkpoint_does_not_load_into_another_computation(tmp_path: Path, other: dict[str, Any]) -> None:
    first = compiled(tmp_path / "relu", "onnx").trainer(threads=1)
    first.step(DATA[0])
    saved = first.save(tmp_path / "saved")
    how = {**other, **({"net": other["net"]()} if "net" in other else {})}
    second = compiled(tmp_path / "other", "onnx", **how).trainer(threads=1)
    with pytest.raises(ArtifactError, match="operators of the forward pass or the loss differ"):
        second.load_checkpoint(saved)
    assert second.steps == 0


def test_a_checkpoint_goes_on_with_another_batch_size(tmp_path: Path) -> None:
    first = compiled(tmp_path / "eight", "onnx").trainer(threads=1)
    first.step(DATA[0])
    small = batches(3, 12)
    second = compiled(tmp_path / "three", "onnx", data=small).trainer(threads=1)
    second.load_checkpoint(first.save(tmp_path / "saved"))
    assert second.step(small[0]).step == 2


def test_a_checkpoint_moves_between_targets_in_the_middle_of_accumulation(tmp_path: Path) -> None:
    optimizer = pg.AdamW(lr=0.01, accumulate=3, ema_decay=0.9)
    trainers = {
        t: compiled(tmp_path / t, t, optimizer=optimizer).trainer(threads=1)
        for t in ("openvino", "onnx", "torch")
    }
    alone = compiled(tmp_path / "alone", "torch", optimizer=optimizer).trainer(threads=1)
    saved = tmp_path / "saved"
    for i, target in enumerate(("openvino", "onnx", "torch", "onnx", "openvino")):
        trainer = trainers[target]
        if i:
            trainer.load_checkpoint(saved)
        for k in range(2):
            trainer.step(DATA[(2 * i + k) % 3])
            alone.step(DATA[(2 * i + k) % 3])
        trainer.save(saved)
        for averaged in (False, True):
            state = trainer.state(averaged=averaged)
            for fqn, value in alone.state(averaged=averaged).items():
                np.testing.assert_allclose(state[fqn], value, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("field", ["step", "seed"])
def test_the_header_of_a_checkpoint_cannot_be_changed(tmp_path: Path, field: str) -> None:
    trainer = compiled(tmp_path / "out", "onnx").trainer(threads=1)
    saved = trainer.save(tmp_path / "saved")
    with safe_open(saved, framework="numpy") as f:
        header, arrays = json.loads(f.metadata()["pockui"]), {n: f.get_tensor(n) for n in f.keys()}  # noqa: SIM118
    header[field] = 7
    save_file(arrays, saved, {"pockui": json.dumps(header)})
    with pytest.raises(ArtifactError, match="its values or its header changed"):
        trainer.load_checkpoint(saved)


def test_checkpoints_and_artefacts_of_the_first_version_open(tmp_path: Path) -> None:
    artifact = compiled(tmp_path / "out", "onnx")
    trainer = artifact.trainer(threads=1)
    trainer.step(DATA[0])
    saved = trainer.save(tmp_path / "saved")
    with safe_open(saved, framework="numpy") as f:
        header, arrays = json.loads(f.metadata()["pockui"]), {n: f.get_tensor(n) for n in f.keys()}  # noqa: SIM118
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape};".encode() + arrays[name].tobytes())
    del header["computation"]
    header |= {"schema": "pockui.checkpoint/1", "sha256": digest.hexdigest()}
    save_file(arrays, saved, {"pockui": json.dumps(header)})
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    del manifest["computation"]
    (artifact.path / "manifest.json").write_text(json.dumps(manifest))
    old = Trainer.load(artifact.path, threads=1)
    old.load_checkpoint(saved)
    assert old.steps == 1
    assert all(np.array_equal(a, old.state()[n]) for n, a in trainer.state().items())


def test_a_checkpoint_that_is_not_finite_is_not_continued(tmp_path: Path) -> None:
    trainer = compiled(tmp_path / "out", "onnx").trainer(threads=1)
    state = {n: np.full_like(a, np.nan) for n, a in trainer._runner.read_state().items()}
    save_checkpoint(tmp_path / "saved", trainer.manifest, state, 3, 0)
    with pytest.raises(ArtifactError, match="NaN or infinite"):
        trainer.load_checkpoint(tmp_path / "saved")
