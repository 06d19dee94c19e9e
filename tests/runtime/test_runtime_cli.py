"""`python -m pockgraph.runtime`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_task import ROWS, SAMPLES, Compile, batches, samples

from pockgraph.runtime import Trainer
from pockgraph.runtime.command import main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", **{k: v.numpy() for k, v in samples().items()})
    return tmp_path / "data.npz"


@pytest.fixture
def folder(compiled: Compile) -> str:
    return str(compiled("openvino").path)


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_it_trains_evaluates_and_saves(
    folder: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "saved"
    args = [folder, "--data", str(data), "--steps", "5", "--every", "2", "--threads", "1", "--lr", "0.1"]
    assert main([*args, "--eval", str(data), "--save", str(saved)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out] == ["step 2", "step 4", "step 5", "done"]
    assert "ms a step" in out[0]
    assert f"on {SAMPLES} samples" in out[-1]
    assert "peak memory of the process" in out[-1]

    trainer = Trainer.load(folder, threads=1)
    for batch in batches(5):
        trainer.step(batch, lr=0.1)
    other = Trainer.load(folder, threads=1)
    other.load_checkpoint(saved)
    assert other.steps == 5
    assert all(np.array_equal(a, other.state()[n]) for n, a in trainer.state().items())


def test_a_resumed_run_sees_the_data_that_comes_next(
    folder: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*args: str) -> list[float]:
        common = [folder, "--data", str(data), "--every", "1", "--threads", "1", "--json"]
        assert main([*common, *args]) == 0
        return [e["loss"] for e in events(capsys) if e["event"] == "step"]

    saved = str(tmp_path / "saved")
    whole = run("--steps", "6")
    first = run("--steps", "2", "--save", saved)
    assert first + run("--steps", "4", "--resume", saved, "--save", saved) == whole
    assert len(set(whole)) == 6


def test_a_checkpoint_is_evaluated_without_a_step(
    folder: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, common = str(tmp_path / "saved"), ["--data", str(data), "--threads", "1"]
    assert main([folder, *common, "--steps", "3", "--eval", str(data), "--save", saved, "--json"]) == 0
    trained = events(capsys)[-1]
    kept = (tmp_path / "saved").read_bytes()
    assert main(["evaluate", folder, *common, "--checkpoint", saved, "--json"]) == 0
    (report,) = events(capsys)
    assert {n: report[n] for n in ("step", "metric", "samples")} == {
        n: trained[n] for n in ("step", "metric", "samples")
    }
    assert (tmp_path / "saved").read_bytes() == kept
    assert main(["evaluate", folder, *common]) == 0
    said = capsys.readouterr().out
    assert said.startswith("done: metric ")
    assert f"on {SAMPLES} samples, after 0 steps" in said
    assert f"{trained['metric']:.4f}" not in said
    assert main(["evaluate", folder, "--data", str(tmp_path / "none.npz")]) == 2
    assert "none.npz as an npz file" in capsys.readouterr().err


def test_its_json_is_complete(folder: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([folder, "--data", str(data), "--steps", "1", "--eval", str(data), "--json"]) == 0
    step, done = events(capsys)
    assert step.keys() == {"event", "step", "loss", "step_ms"}
    assert done.keys() == {"event", "step", "metric", "samples", "peak_rss_bytes"}
    assert 10e6 < done["peak_rss_bytes"] < 10e9


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"x": np.zeros((9, 3, 6, 6), np.float32)}, "lacks 'y'"),
        (
            {"x": np.zeros((9, 3, 6, 6), np.float32), "y": np.zeros(8, np.int64)},
            "common number of samples",
        ),
        (
            {"x": np.zeros((0, 3, 6, 6), np.float32), "y": np.zeros(0, np.int64)},
            "holds no samples",
        ),
        ({"x": np.zeros((9, 3, 6, 5), np.float32), "y": np.zeros(9, np.int64)}, "'x' has shape"),
        ({"x": np.array([None] * 9), "y": np.zeros(9, np.int64)}, "as an npz file"),
        (b"not a zip", "as an npz file"),
        (None, "as an npz file"),
    ],
)
def test_bad_input_is_one_paragraph(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, words: str
) -> None:
    path = tmp_path / "bad.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.savez(path, **content)
    assert main([folder, "--data", str(path), "--steps", "1", "--threads", "1"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_arguments_are_checked(folder: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([folder + "/nothing", "--data", str(data), "--steps", "1"]) == 2
    for wrong in (["--steps", "0"], ["--steps", "x"], []):
        with pytest.raises(SystemExit) as e:
            main([folder, "--data", str(data), *wrong])
        assert e.value.code == 2
    assert main([folder, "--data", str(data), "--steps", "1", "--lr", "nan"]) == 2
    assert "is no learning rate" in capsys.readouterr().err


def test_entries_without_rows_go_whole_into_every_batch(compiled: Compile, tmp_path: Path) -> None:
    from pockgraph.plan import BatchSpec
    from pockgraph.runtime.data.opening import training_data

    manifest = compiled("openvino").manifest
    scaled = manifest.model_copy(
        update={"batch": {**manifest.batch, "scale": BatchSpec(shape=(), dtype="float32")}}
    )
    arrays = {k: v.numpy() for k, v in samples().items()}
    np.savez(tmp_path / "data.npz", **arrays, scale=np.float32(2))
    loaded = training_data(tmp_path / "data.npz", scaled)
    assert all(b["scale"] == 2 for b in loaded.batches())
    assert [len(b["y"]) for b in loaded.batches()] == [ROWS, ROWS, SAMPLES % ROWS]
    wrapped = loaded.batch(2)["y"]
    assert np.array_equal(wrapped, np.concatenate([arrays["y"][16:], arrays["y"][:4]]))


def test_ctrl_c_saves_and_stops(folder: str, data: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    args = [folder, "--data", data, "--steps", "100000000", "--every", "1", "--save", saved, "--json"]
    command = [sys.executable, "-m", "pockgraph.runtime", *map(str, args)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["step"] == 1
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "")
    done = json.loads(out.splitlines()[-1])
    trainer = Trainer.load(folder, threads=1)
    trainer.load_checkpoint(saved)
    assert trainer.steps == done["step"] >= 1
