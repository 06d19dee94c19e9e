"""What earlier releases left on devices opens, goes on and answers as it did."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from pockgraph.errors import ArtifactError
from pockgraph.plan import Plan
from pockgraph.runtime import Predictor, Trainer

HERE = Path(__file__).parent
STORED = sorted(HERE.glob("*/*.zip"))
LEARNS = {"0.weight": (1, 2, 5), "1.weight": None, "4.weight": None, "4.bias": None}
TOLERANCE = 1e-6


@pytest.fixture(params=STORED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def stored(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def folder(stored: Path, tmp_path: Path) -> Path:
    with zipfile.ZipFile(stored) as archive:
        archive.extractall(tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def expected(stored: Path) -> dict[str, Any]:
    return json.loads((stored.parent / "expected.json").read_text())


@pytest.fixture
def batches(stored: Path, expected: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    with np.load(stored.parent / "batches.npz") as file:
        arrays = dict(file)
    rows, steps = expected["rows"], len(expected["losses"])
    return [{n: a[i * rows : (i + 1) * rows] for n, a in arrays.items()} for i in range(steps)]


def test_each_target_of_a_release_is_stored() -> None:
    assert {p.stem for p in STORED} == {"onnx", "openvino", "torch"}


def test_it_trains_evaluates_and_predicts_as_it_did(
    folder: Path, expected: dict[str, Any], batches: list[dict[str, np.ndarray]], stored: Path, tmp_path: Path
) -> None:
    with Trainer.load(folder, threads=1, seed=expected["seed"]) as trainer:
        for number, batch in enumerate(batches):
            if number == expected["saved_after"]:
                trainer.save(tmp_path / "ours")
            assert trainer.step(batch).loss == pytest.approx(expected["losses"][number], abs=TOLERANCE)
        assert trainer.evaluate(batches[:1]).metric == pytest.approx(expected["metric"], abs=TOLERANCE)
        np.testing.assert_allclose(
            trainer.predict({"x": batches[0]["x"]}), expected["predictions"], rtol=0, atol=TOLERANCE
        )
    ours, theirs = load_file(tmp_path / "ours"), load_file(stored.parent / "checkpoint")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=TOLERANCE, err_msg=name)


def test_its_checkpoint_goes_on(
    folder: Path, expected: dict[str, Any], batches: list[dict[str, np.ndarray]], stored: Path, tmp_path: Path
) -> None:
    checkpoint = stored.parent / "checkpoint"
    with Trainer.load(folder, threads=1) as trainer:
        trainer.load_checkpoint(checkpoint)
        assert (trainer.steps, trainer.seed) == (expected["saved_after"], expected["seed"])
        for batch, loss in list(zip(batches, expected["losses"]))[trainer.steps :]:
            assert trainer.step(batch).loss == pytest.approx(loss, abs=TOLERANCE)
        trainer.save(tmp_path / "new")
    with Predictor.load(folder, tmp_path / "new", threads=1) as predictor:
        np.testing.assert_allclose(
            predictor.predict({"x": batches[0]["x"]}), expected["predictions"], rtol=0, atol=TOLERANCE
        )


def test_its_plan_says_what_it_said(folder: Path) -> None:
    plan = Plan.load(folder / "plan.json")
    assert {fqn: trained.channels for fqn, trained in plan.tensors.items()} == LEARNS
    assert (plan.batch_norm, plan.dropout) == ("batch", True)


def test_an_unknown_version_is_refused_by_name(folder: Path, stored: Path, tmp_path: Path) -> None:
    checkpoint = stored.parent / "checkpoint"
    with safe_open(checkpoint, framework="numpy") as f:
        header = json.loads(f.metadata()["pockui"]) | {"schema": "pockui.checkpoint/99"}
    save_file(load_file(checkpoint), tmp_path / "later", {"pockui": json.dumps(header)})
    with (
        Trainer.load(folder, threads=1) as trainer,
        pytest.raises(ArtifactError, match=r"'pockui\.checkpoint/99'; this version .* reads 'pockui\.check"),
    ):
        trainer.load_checkpoint(tmp_path / "later")
    for name, schema in (("plan.json", "pockui.plan/99"), ("manifest.json", "pockui.artifact/99")):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": schema}))
        with pytest.raises(Exception, match=f"'{schema}'"):
            Plan.load(path) if name == "plan.json" else Trainer.load(folder, threads=1)
