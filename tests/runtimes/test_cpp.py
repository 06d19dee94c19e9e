"""The trainer in C++: what Python's gives for the same artefact, to the bit."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from cpp_build import ROOT, built
from drawings import compiled, drawings
from torch import nn

import pockgraph as pg
from pockgraph.runtime import Trainer
from pockgraph.runtime.command import main

# Nothing is the same twice: dropout, an average of the weights, and an update after every third step.
OPTIMIZER = pg.Adam(lr=0.01, ema_decay=0.9, accumulate=3)
BUILD_S = 1200  # on a machine that does other things, too


@pytest.fixture(scope="module")
def programs() -> Path:
    return built()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("cpp") / "out", OPTIMIZER, target="openvino")


@pytest.fixture
def artifact(stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "artifact"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return written(tmp_path / "data.npz")


def written(path: Path, **changed: np.ndarray) -> Path:
    """All drawings as a file, some entries changed."""
    joined = {n: np.concatenate([b[n] for b in drawings()]) for n in drawings()[0]}
    np.savez(path, **(joined | changed))
    return path


@pytest.fixture
def run(programs: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run_program(*arguments: object, program: str = "train") -> subprocess.CompletedProcess[str]:
        command = [str(programs / program), *map(str, arguments)]
        threads = ["--threads", "1"] if program == "train" else []
        return subprocess.run([*command, *threads], capture_output=True, text=True, timeout=120)

    return run_program


Run = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.timeout(BUILD_S)


def reports(done: subprocess.CompletedProcess[str]) -> list[dict]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def require_same_state(checkpoint: Path, artifact: Path, trainer: Trainer) -> Trainer:
    """The checkpoint, opened by Python, which holds what `trainer` holds, to the bit."""
    other = Trainer.load(artifact, threads=1)
    other.load_checkpoint(checkpoint)
    assert (other.steps, other.seed) == (trainer.steps, trainer.seed)
    expected, found = trainer._runner.read_state(), other._runner.read_state()
    assert expected.keys() == found.keys()
    assert [n for n in expected if expected[n].tobytes() != found[n].tobytes()] == []
    return other


def test_steps_metric_predictions_and_checkpoint_equal_python(
    artifact: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    trainer = Trainer.load(artifact, threads=1)
    batches = drawings()
    losses = [trainer.step(batches[i % len(batches)]).loss for i in range(10)]
    held_out, saved = (
        written(tmp_path / "held_out.npz", **{n: a[:3] for n, a in batches[1].items()}),
        tmp_path / "saved",
    )
    *steps, done = reports(
        run(
            artifact,
            "--data",
            data,
            "--steps",
            10,
            "--every",
            1,
            "--save",
            saved,
            "--eval",
            held_out,
            "--json",
        )
    )
    assert [s["loss"] for s in steps] == losses
    expected = trainer.evaluate([{n: a[:3] for n, a in batches[1].items()}])
    assert (done["step"], done["metric"], done["samples"]) == (10, expected.metric, 3)
    require_same_state(saved, artifact, trainer)

    images = np.concatenate([b["x"] for b in batches])[:7]  # a full batch, and three that are filled up
    np.save(tmp_path / "x.npy", images)
    answers = tmp_path / "answers.npz"
    (said,) = reports(
        run(
            "predict",
            artifact,
            "--data",
            tmp_path / "x.npy",
            "--checkpoint",
            saved,
            "--out",
            answers,
            "--json",
        )
    )
    right = trainer.predict({"x": images})
    assert isinstance(right, np.ndarray)
    assert said["outputs"] == {"prediction": {"dtype": "float32", "shape": list(right.shape)}}
    with np.load(answers) as found:
        assert found["prediction"].tobytes() == right.tobytes()


def test_steps_with_frozen_weights_in_int8_equal_python(tmp_path: Path, data: Path, run: Run) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 48), nn.Linear(48, 5))

    def each(model: nn.Module, b: dict[str, torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(model(b["x"]), b["y"], reduction="none")

    batches = [{n: torch.from_numpy(a) for n, a in b.items()} for b in drawings()]
    task = pg.Task("flat", net, lambda model, b: each(model, b).mean(), each, batches, batches)
    graph = pg.build(task, pg.SGD(lr=0.1))
    plan = pg.Plan.of(graph, {"1.bias": 1.0, "4.weight": 1.0})
    artifact = pg.compile(graph, plan, out=tmp_path / "out", options={"frozen_weights": "int8"}).path
    trainer = Trainer.load(artifact, threads=1)
    losses = [trainer.step(b).loss for b in drawings()[:4]]
    *steps, _ = reports(run(artifact, "--data", data, "--steps", 4, "--every", 1, "--json"))
    assert [s["loss"] for s in steps] == losses


def test_a_checkpoint_goes_from_python_and_back_in_the_middle_of_an_accumulation(
    artifact: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    trainer = Trainer.load(artifact, threads=1, seed=7)
    batches = drawings()
    for i in range(4):
        trainer.step(batches[i])
    first, second = trainer.save(tmp_path / "first"), tmp_path / "second"
    *steps, _ = reports(
        run(
            artifact,
            "--data",
            data,
            "--steps",
            4,
            "--every",
            1,
            "--resume",
            first,
            "--save",
            second,
            "--json",
        )
    )
    losses = [trainer.step(batches[i % len(batches)]).loss for i in range(4, 8)]
    assert [s["loss"] for s in steps] == losses
    *frugal, _ = reports(
        run(artifact, "--data", data, "--steps", 4, "--every", 1, "--resume", first, "--low-memory", "--json")
    )
    assert [s["loss"] for s in frugal] == pytest.approx(losses, rel=1e-6)
    other = require_same_state(second, artifact, trainer)
    assert other.step(batches[0]).loss == trainer.step(batches[0]).loss


def test_a_step_that_is_not_finite_leaves_no_trace(artifact: Path, tmp_path: Path, run: Run) -> None:
    batches = drawings()
    batches[5]["x"] = np.full_like(batches[5]["x"], 3e38)  # the weights change in the sixth step
    data, saved = (
        written(tmp_path / "large.npz", x=np.concatenate([b["x"] for b in batches])),
        tmp_path / "saved",
    )
    trainer = Trainer.load(artifact, threads=1, on_nonfinite="skip")
    for batch in batches[:5]:
        trainer.step(batch)
    refused = run(artifact, "--data", data, "--steps", 9, "--save", saved)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: In step 6 (lr 0.01; loss ")
    assert refused.stderr.endswith(f"The state of step 5 was saved to {saved}; --resume goes on from it.\n")
    require_same_state(saved, artifact, trainer)

    asked = ("--resume", saved, "--save", saved, "--on-nonfinite", "skip", "--json")
    *_, done = reports(run(artifact, "--data", data, "--steps", 2, *asked))
    assert (done["step"], done["skipped"]) == (7, 1)
    assert trainer.step(batches[5]).skipped
    trainer.step(batches[0])
    require_same_state(saved, artifact, trainer)


def test_it_prints_what_the_program_in_python_prints(
    artifact: Path, data: Path, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [
        "--data",
        str(data),
        "--steps",
        "3",
        "--every",
        "2",
        "--eval",
        str(data),
        "--save",
        str(tmp_path / "c"),
    ]
    assert main([str(artifact), *asked, "--threads", "1"]) == 0
    expected = capsys.readouterr().out
    found = run(artifact, *asked).stdout
    measured = re.compile(r"[\d.]+ (?=ms a step|MB)")
    assert measured.sub("", found) == measured.sub("", expected)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    return done.stderr.removeprefix("error: ").rstrip()


def test_what_does_not_fit_is_refused_and_nothing_is_written(
    artifact: Path, tmp_path: Path, run: Run
) -> None:
    x, y = (np.concatenate([b[n] for b in drawings()]) for n in ("x", "y"))
    bad = x.copy()
    bad[1, 0, 2, 3] = np.nan
    file, saved = tmp_path / "bad.npz", tmp_path / "saved"
    fit = "This batch does not fit the step compiled for task 'drawings': "
    holds = "A batch holds x float32 [4, 1, 8, 8] and y int64 [4]."
    for changed, expected in {
        f"{fit}'x' has shape [4, 8, 8] instead of [4, 1, 8, 8]. {holds}": {"x": x[:, 0]},
        f"{fit}'y' holds float32 instead of int64. {holds}": {"y": y.astype(np.float32)},
        "Batch entry 'y' of task 'drawings' holds 9 at [2], but these are class labels": {
            "y": y * 0 + [0, 1, 9, 3] * 6
        },
        "Batch entry 'x' of task 'drawings' holds nan at [1, 0, 2, 3].": {"x": bad},
        f"The arrays of {file} need one common number of samples, not {{'x': 24, 'y': 3}}.": {"y": y[:3]},
        f"Cannot read {file} as an npz file: an array is in Fortran order": {"x": np.asfortranarray(x)},
    }.items():
        written(file, **expected)
        assert refusal(run(artifact, "--data", file, "--steps", 1, "--save", saved)).startswith(changed)
    np.savez_compressed(file, x=x, y=y)
    said = refusal(run(artifact, "--data", file, "--steps", 1, "--save", saved))
    assert "x.npy is compressed, and this program reads what numpy.savez writes" in said
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(written(file), "a") as archive:
        archive.writestr("x.npy", archive.read("x.npy"))
    said = refusal(run(artifact, "--data", file, "--steps", 1, "--save", saved))
    assert said.startswith(f"Cannot read {file} as an npz file: x.npy is there twice")
    written(file)
    damaged = bytearray(file.read_bytes())
    damaged[2000] ^= 1
    file.write_bytes(damaged)
    said = refusal(run(artifact, "--data", file, "--steps", 1, "--save", saved))
    assert said.startswith(f"Cannot read {file} as an npz file: x.npy is damaged (its checksum differs)")
    assert not saved.exists()
    saved.write_text("mine")
    said = refusal(run(artifact, "--data", written(file), "--steps", 1, "--save", saved))
    assert said.startswith(f"{saved} exists and is no checkpoint, so it is not replaced.")
    assert saved.read_text() == "mine"
    assert refusal(run(artifact, "--steps", 1)) == "--data is missing; train --help lists the options."


def test_an_artefact_that_is_not_what_it_says_is_refused(
    artifact: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    def said() -> str:
        return refusal(run(artifact, "--data", data, "--steps", 1))

    manifest = artifact / "manifest.json"
    right = manifest.read_text()
    for before, after, expected in (
        (
            "pockui.artifact/1",
            "pockui.artifact/9",
            f"{manifest} has schema 'pockui.artifact/9'; this version of pockui",
        ),
        ('"target": "openvino"', '"target": "onnx"', f"The artefact {artifact} was compiled for onnx"),
        (
            '"plan.json": {',
            '"../plan.json": {',
            f"{manifest} is not a valid manifest: '../plan.json' is not a plain",
        ),
        (
            '"options": {}',
            '"options": {"frozen_weights": "int2"}',
            f"The artefact {artifact} stores frozen weights in 'int2'; this program knows f32 and int8.",
        ),
        ('"task": ', '"tusk": ', f"{manifest} is not a valid manifest: "),
        ("{", "[", f"Cannot read {manifest}: it is not JSON"),
    ):
        assert before in right
        manifest.write_text(right.replace(before, after, 1))
        assert said().startswith(expected)
    manifest.write_text(right)

    constants = artifact / "train.bin"
    values = bytearray(constants.read_bytes())
    values[100] ^= 1
    constants.write_bytes(values)
    damaged = f"The artefact {artifact} is damaged: train.bin"
    assert said().startswith(f"{damaged} was changed (its SHA-256 differs).")
    constants.write_bytes(values[:-1])
    assert said().startswith(f"{damaged} has {len(values) - 1} bytes instead of {len(values)}.")
    values[100] ^= 1
    (tmp_path / "elsewhere.bin").write_bytes(values)
    constants.unlink()
    assert said().startswith(f"{damaged} is missing.")
    constants.symlink_to(tmp_path / "elsewhere.bin")
    assert said().startswith(f"{damaged} is a link to a place outside the folder.")


def test_a_checkpoint_of_something_else_is_refused(
    artifact: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    checkpoint = Trainer.load(artifact, threads=1).save(tmp_path / "checkpoint")
    right = checkpoint.read_bytes()
    fingerprint = json.loads((artifact / "manifest.json").read_text())["fingerprint"].encode()
    for bytes_, expected in (
        (right[:500], "is damaged or no safetensors file (it was cut short)"),
        (right[:-1] + bytes([right[-1] ^ 1]), "was damaged: its values or its header changed"),
        (right.replace(fingerprint, fingerprint[::-1]), "belongs to another artefact"),
        (right.replace(b"pockui.checkpoint/2", b"pockui.checkpoint/9"), "has schema 'pockui.checkpoint/9'"),
    ):
        checkpoint.write_bytes(bytes_)
        assert expected in refusal(run(artifact, "--data", data, "--steps", 1, "--resume", checkpoint))


def test_a_stopped_run_saves_what_it_learnt(
    artifact: Path, data: Path, tmp_path: Path, programs: Path
) -> None:
    saved = tmp_path / "saved"
    command = [programs / "train", artifact, "--data", data, "--steps", 10**9, "--save", saved, "--every", 1]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        *_, last = process.stdout.read().splitlines()
        assert process.wait() == 128 + 15
    trainer = Trainer.load(artifact)
    trainer.load_checkpoint(saved)
    assert last.startswith(f"done: {trainer.steps} steps")
    assert [n for n in os.listdir(tmp_path) if n.endswith("partial")] == []


def test_the_example_of_the_documents_runs(artifact: Path, tmp_path: Path, run: Run) -> None:
    done = run(artifact, tmp_path / "saved", program="example")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"probabilities of 5 classes\nloss \d\.\d+\n", done.stdout)
    trainer = Trainer.load(artifact)
    trainer.load_checkpoint(tmp_path / "saved")
    assert trainer.steps == 1
    folder = ROOT / "runtimes" / "cpp"
    assert (folder / "example.cpp").read_text().split("\n\n", 1)[1] in (folder / "README.md").read_text()
