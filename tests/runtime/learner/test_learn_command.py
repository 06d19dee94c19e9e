"""`python -m pockgraph.runtime learn`."""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from learning import opened, stream
from tiny_task import Compile

from pockgraph.runtime import Predictor
from pockgraph.runtime import learn_command as learn
from pockgraph.runtime.command import main

FOLDER = "learner"


@pytest.fixture
def artifact(compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    samples = stream(80)
    np.savez("data.npz", x=np.stack([s["x"] for s in samples]), y=np.stack([s["y"] for s in samples]))
    return compiled("onnx", predict="one").path


def run(artifact: Path, *more: str) -> int:
    settings = ("--lr", "0.03", "--steps", "20", "--held-out", "0.3", "--threads", "1")
    return main(["learn", str(artifact), "--folder", FOLDER, *settings, *more])


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_it_takes_samples_in_learns_and_keeps_a_journal(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(artifact, "--data", "data.npz", "--rounds", "2", "--save", "saved", "--json") == 0
    *happened, done = printed(capsys)
    assert [e["event"] for e in happened].count("promoted") == 2
    assert done["generation"] == 2
    assert done["training_samples"] + done["held_out_samples"] == 80
    assert done["checkpoint"] == str(Path("saved").resolve())
    Predictor.load(artifact, "saved", threads=1)

    assert run(artifact, "--data", "data.npz") == 0  # the same samples are the same samples
    assert "done: generation 2 answers (step " in capsys.readouterr().out
    assert main(["learn", "--folder", FOLDER, "--journal", "--last", "1000", "--json"]) == 0
    events = printed(capsys)
    assert [e["number"] for e in events] == list(range(1, len(events) + 1))
    kinds = [e["event"] for e in events]
    assert kinds.count("accepted") == 160
    assert kinds[80] == "trained"

    key = events[0]["key"]
    assert run(artifact, "--delete", key, "--revert", "0", "--json") == 0
    (done,) = printed(capsys)
    assert done["generation"] == 0
    assert done["training_samples"] + done["held_out_samples"] == 79
    assert main(["learn", "--folder", FOLDER, "--journal", "--last", "2"]) == 0
    out = capsys.readouterr().out
    assert [line.split(maxsplit=3)[3] for line in out.splitlines()] == ["deleted", "reverted: generation 0"]


def test_in_the_background_it_goes_on_until_a_signal(
    artifact: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []

    def sleep(seconds: float) -> None:  # what the command does between two looks
        rests.append(seconds)
        with sqlite3.connect(f"{FOLDER}/learner.db") as connection:
            promoted = connection.execute("SELECT count(*) FROM generations").fetchone()[0]
        connection.close()
        if promoted or len(rests) > 600:
            signal.raise_signal(signal.SIGTERM)
        threading.Event().wait(0.02)

    # The command's own `time`: a second signal ends the process, and other threads sleep, too.
    monkeypatch.setattr(learn, "time", SimpleNamespace(sleep=sleep))
    assert (
        run(artifact, "--data", "data.npz", "--background", "--duty", "1", "--json") == 128 + signal.SIGTERM
    )
    events = [e["event"] for e in printed(capsys)]
    assert "promoted" in events
    assert events[-1] == "done"


def test_the_journal_is_read_while_another_learns(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(artifact, Path(FOLDER)) as learner:
        key = learner.add(stream(1)[0])
        assert main(["learn", "--folder", FOLDER, "--journal", "--json"]) == 0
        assert [e["key"] for e in printed(capsys)] == [key]
        assert run(artifact) == 2
        assert "in use by another learner" in capsys.readouterr().err


def test_what_is_wrong_is_said_in_a_paragraph(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("wrong.npz", x=np.zeros((3, 3, 6, 6), np.float32), y=np.full(3, 9))
    cases: dict[tuple[str, ...], str] = {
        ("--data", "wrong.npz"): "9",
        ("--data", "missing.npz"): "Cannot read",
        ("--delete", "k"): "no sample of key 'k'",
        ("--revert", "7"): "no generation 7",
        ("--duty", "2"): "duty_ratio=2.0 is over 0 and at most 1",
    }
    for more, words in cases.items():
        assert run(artifact, *more) == 2, more
        assert words in capsys.readouterr().err
    assert main(["learn", "--folder", "nothing", "--journal"]) == 2
    assert "no learner in nothing" in capsys.readouterr().err
    assert main(["learn", "--folder", "nothing"]) == 2
    assert "Name the artefact" in capsys.readouterr().err
    assert not Path("nothing").exists()
