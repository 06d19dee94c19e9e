"""`python -m pockgraph.runtime predict`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_task import SAMPLES, Compile, batches, samples

from pockgraph.runtime import Trainer
from pockgraph.runtime.command import main

DATA = "data.npz"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.chdir(tmp_path)
    x = samples()["x"].numpy()
    np.savez(DATA, image=x, other=np.zeros(3))
    return x


@pytest.fixture
def trained(compiled: Compile, data: np.ndarray) -> Trainer:
    trainer = Trainer.load(compiled("onnx", predict="named").path, threads=1)
    for batch in batches(2):
        trainer.step(batch)
    trainer.save("saved")
    return trainer


def predict(trainer: Trainer, *more: str) -> int:
    return main(["predict", str(trainer.folder), "--data", DATA, "--threads", "1", *more])


def test_it_answers_with_a_checkpoint(
    trained: Trainer, data: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(trained, "--checkpoint", "saved", "--out", "answers.npz", "--json") == 0
    (report,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert report["outputs"]["logits"] == {"dtype": "float32", "shape": [SAMPLES, 4]}
    assert report["batch_samples"] == 4
    assert report["written"] == str(Path("answers.npz").resolve())
    right = trained.predict({"image": data})
    with np.load("answers.npz") as answers:
        assert sorted(answers) == ["label", "logits"]
        assert np.array_equal(answers["logits"], right["logits"])
        assert np.array_equal(answers["label"], right["label"])
    assert predict(trained) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"done: logits float32 [{SAMPLES}, 4], label int64 [{SAMPLES}], ")
    assert "ms a batch of 4" in said


def test_what_cannot_be_predicted_is_said_in_a_paragraph(
    trained: Trainer, compiled: Compile, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("wrong.npz", x=np.zeros(3))
    Path("notes.txt").write_text("mine")
    cases = {
        (
            "--data",
            "wrong.npz",
        ): "wrong.npz lacks 'image'. A batch holds image float32 [4, 3, 6, 6] in batches of",
        ("--checkpoint", "missing"): "There is no file",
        ("--out", DATA): "is the data itself",
        ("--out", "notes.txt"): "is no npz file",
    }
    for more, words in cases.items():
        assert predict(trained, *more) == 2
        assert words in capsys.readouterr().err
    assert Path("notes.txt").read_text() == "mine"
    assert main(["predict", str(compiled("onnx").path), "--data", DATA]) == 2
    assert "compile it again" in capsys.readouterr().err
