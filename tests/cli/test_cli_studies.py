"""Trainings land in the study they belong to; a study is verified, shown, exported and imported."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from projects import Cli  # pyright: ignore

import pockgraph
import pockui
from pockgraph.plan import Budget
from pockgraph.store.schema import MIGRATIONS
from pockgraph.study import Study


@pytest.fixture
def artifact(study: Path, cli: Cli) -> Path:
    """A plan of the study, compiled."""
    assert cli("search", study, "--peak-mb", 1, "--out", "plan.json").code == 0
    made = cli(
        "compile", "my_project:task", "--plan", "plan.json", "--target", "onnx", "--no-parity", "--out", "out"
    )
    assert made.code == 0, made.err
    return Path("out")


def test_a_training_lands_in_the_study_of_its_task(study: Path, artifact: Path, cli: Cli) -> None:
    trained = cli("train", artifact, "my_project:task", "--steps", 6, "--lr", 0.1, "--save", "c", "--json")
    assert trained.code == 0, trained.err
    assert "study.db keeps this run" in trained.err
    assert trained.json["study"] == str(study)
    with Study(study) as record:
        (run,) = record.runs()
    assert (run.id, run.origin, run.status, run.target) == (trained.json["run"], "cli", "done", "onnx")
    assert (run.steps, run.lr, run.seed, len(run.losses)) == (6, 0.1, 0, 6)
    assert run.losses[0] == trained.json["first_loss"]
    assert run.metric == trained.json["metric"]
    assert run.step_ms == trained.json["step_ms"]
    assert {n: s.samples for n, s in run.data.items()} == {"train": 96, "validation": 48, "test": 48}
    for figure in (run.baseline, run.validation_baseline, run.validation_metric):
        assert figure is not None
        assert 0 <= figure <= 1

    resumed = cli("train", artifact, "my_project:task", "--steps", 2, "--resume", "c", "--json")
    with Study(study) as record:
        last = record.runs()[-1]
    assert (last.id, last.began_at, last.steps) == (resumed.json["run"], 6, 2)
    assert last.baseline == run.metric  # it goes on with what the first one ended with
    assert last.lr == 0.01  # the artefact's own


def test_a_training_on_a_file_lands_there_too(study: Path, artifact: Path, cli: Cli) -> None:
    import my_project  # pyright: ignore

    np.savez("data.npz", **my_project.samples(40, 3))
    assert cli("train", artifact, "--data", "data.npz", "--steps", 2, "--eval", "data.npz").code == 0
    with Study(study) as record:
        (run,) = record.runs()
    assert run.data["train"].samples == 40
    assert run.metric is not None
    assert run.baseline is not None


def test_no_study_is_written_that_nobody_means(study: Path, artifact: Path, cli: Cli) -> None:
    train = ("train", artifact, "my_project:task", "--steps", 1)
    assert cli(*train, "--no-study").code == 0
    refused = cli(*train, "--no-study", "--study", study)
    assert (refused.code, "Say either" in refused.err) == (2, True)
    other = cli("train", artifact, "my_project:ready", "--steps", 1)  # whose data may be another
    assert other.code == 0
    assert "keeps this run" not in other.err
    before = study.read_bytes()
    analyze = ("analyze", "my_project:task", "--steps", 1, "--lr", 0.1, "--ratios", 1, "--target", "torch")
    assert cli(*analyze, "--study", "adam.db", "--optimizer", "adam").code == 0
    wrong = cli(*train, "--study", "adam.db")
    assert wrong.code == 2
    assert "its optimizer is another one" in wrong.err
    with Study(study) as record:
        assert record.runs() == []
    assert study.read_bytes() == before
    assert cli(*train, "--study", study).code == 0
    with Study(study) as record:
        assert [r.origin for r in record.runs()] == ["cli"]


def test_a_training_that_is_stopped_is_kept_as_cancelled(study: Path, artifact: Path, project: Path) -> None:
    roots = [Path(pockgraph.__file__).parents[1], Path(pockui.__file__).parents[1], project]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roots))}
    args = [
        "train",
        str(artifact),
        "my_project:task",
        "--steps",
        str(10**8),
        "--save",
        "s",
        "--save-every",
        "1",
    ]
    command = [sys.executable, "-c", "from pockui.cli import main; main()", *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as run:
        while not (project / "s").exists():
            assert run.poll() is None, run.communicate()
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
    with Study(study) as record:
        (kept,) = record.runs()
    assert kept.status == "cancelled"
    assert kept.losses
    assert kept.metric is None


# ---------------------------------------------------------------- forecasts, verify


def test_search_and_show_tell_the_forecast_and_its_interval(study: Path, cli: Cli) -> None:
    found = cli("search", study, "--peak-mb", 1, "--json").json["plan"]["predicted"]
    assert 0 <= found["metric_low"] <= found["metric"] <= found["metric_high"] <= 1
    told = cli("search", study, "--peak-mb", 1, "--frontier", 3).out
    assert "in 9 of 10 trainings" in told
    assert "Interval" in told
    with Study(study) as record:
        record.save_plan("best", record.search(Budget()))
    kept = cli("study", "show", study, "--json").json["saved_plans"]["best"]
    assert kept["metric_low"] <= kept["metric"] <= kept["metric_high"]
    assert "Forecast" in cli("study", "show", study).out


def test_a_cautious_search_promises_no_less_at_worst(study: Path, cli: Cli) -> None:
    plans = [
        cli("search", study, "--peak-mb", 1, *more, "--json").json["plan"] for more in ((), ("--cautious",))
    ]
    bold, cautious = (plan["predicted"] for plan in plans)
    assert cautious["score"] <= bold["score"]
    assert plans[1]["provenance"]["made_by"] == "search of the largest lower bound"
    refused = cli("search", study, "--frontier", 3, "--cautious")
    assert (refused.code, "one exact search" in refused.err) == (2, True)


def test_a_plan_is_verified(study: Path, cli: Cli) -> None:
    assert cli("search", study, "--peak-mb", 1, "--out", "plan.json").code == 0
    found = cli("verify", study, "plan.json", "--task", "my_project:task", "--json")
    assert found.code == 0, found.err
    figures = found.json
    gain = figures["measured_gain"]["mean"]
    assert figures["difference"] == pytest.approx(gain - figures["predicted_gain"])
    assert figures["forecast"]["gain"] == figures["predicted_gain"]
    assert (
        0 <= figures["forecast"]["low"] <= figures["forecast"]["metric"] <= figures["forecast"]["high"] <= 1
    )
    (run,) = figures["runs"]
    assert (run["steps"], run["lr"]) == (20, 0.1)
    assert gain == pytest.approx(run["metric"] - run["head_metric"])

    told = cli("verify", study, "plan.json", "--task", "my_project:task", "--seeds", 2)
    assert told.code == 0, told.err
    said = ("plan: ", "Trained 2 times, 20 steps each at rate 0.1", "48 validation samples", "Head alone")
    for words in (*said, "Forecast", "Measured", "Difference", "Next forecast", "of 2 trainings lie inside"):
        assert words in told.out
    assert "keeps the 2 runs" in told.err
    shown = cli("study", "show", study, "--json").json
    assert [r["name"] for r in shown["saved_runs"]] == [
        "plan, seed 0", "head alone, seed 1", "plan, seed 0", "plan, seed 1",
    ]  # fmt: skip
    assert "plan, seed 1" in cli("study", "show", study).out


def test_what_verify_needs_is_said(study: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from pockgraph.study import study as study_module
    from pockui import project as projects

    unknown = cli("verify", study, "presett", "--task", "my_project:task")
    assert unknown.code == 2
    assert "Did you mean 'preset'?" in unknown.err
    monkeypatch.setattr(projects, "_NAMED", [])
    monkeypatch.setattr(study_module, "OPENED_WITH", set())
    unnamed = cli("verify", study, "preset")
    assert unnamed.code == 2
    assert "say so with --task my_project:task" in unnamed.err
    missing = cli("verify", "studdy.db", "preset")
    assert (missing.code, "Did you mean 'study.db'?" in missing.err) == (2, True)


# ---------------------------------------------------------------- export, import, ls


def test_a_study_goes_out_and_comes_in(study: Path, cli: Cli) -> None:
    assert cli("verify", study, "head", "--task", "my_project:task").code == 0
    out = cli("study", "export", study, "all.json", "--json")
    assert out.json == {"file": "all.json", "bytes": Path("all.json").stat().st_size}
    assert json.loads(Path("all.json").read_text())["schema"] == "pockui.study/1"
    new = cli("study", "import", "copy.db", "all.json")
    assert new.code == 0, new.err
    assert "copy.db is new: added 1 run, " in new.out
    again = cli("study", "import", "copy.db", "all.json", "--json").json
    assert (again["made"], again["runs"], again["measurements"]) == (False, 0, 0)
    first, copy = (cli("study", "show", s, "--json").json for s in (study, "copy.db"))
    for apart in ("bytes", "saved_runs"):
        first.pop(apart), copy.pop(apart)
    assert first == copy

    assert cli("study", "export", study, "m.csv", "--table", "measurements").code == 0
    assert "conv2.weight" in Path("m.csv").read_text()
    assert cli("study", "import", "copy.db", "m.csv").code == 0
    refused = cli("study", "export", study, "m.txt")
    assert (refused.code, ".parquet" in refused.err) == (2, True)
    listed = cli("study", "ls", "--json").json
    assert [(s["path"], s["runs"]) for s in listed] == [("copy.db", 1), ("study.db", 1)]
    assert all(s["bytes"] > 0 and s["profiles"] == ["profile"] for s in listed)
    assert {s["schema"] for s in listed} == {len(MIGRATIONS)}


def test_databases_that_are_no_studies_are_named_and_left_alone(cli: Cli, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE notes (text)")
    other.close()
    (tmp_path / "damaged.db").write_bytes(b"no database" * 99)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    listed = cli("study", "ls", tmp_path)
    assert listed.code == 0
    assert "No study in" in listed.out
    left_out = [line for line in listed.err.splitlines() if line.startswith("Left out: ")]
    assert [str(tmp_path / name) in line for name, line in zip(("damaged.db", "other.db"), left_out)] == [
        True
    ] * 2
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
