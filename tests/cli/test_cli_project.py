"""One's own project, from the task to trained weights, by commands alone."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from projects import Cli  # pyright: ignore

from pockgraph.plan import Plan
from pockgraph.runtime.artifact_files import file_sha256
from pockgraph.study import device_kit


def test_from_task_to_trained_weights(study: Path, cli: Cli) -> None:
    found = cli("search", study, "--peak-mb", 1, "--out", "plan.json", "--json")
    assert found.code == 0, found.err
    assert found.json["plan"]["predicted"]["peak_bytes"] <= 1e6
    plan = Plan.load("plan.json")
    assert {"head.weight", "head.bias"} <= set(plan.tensors)

    made = cli("compile", "my_project:task", "--plan", "plan.json", "--out", "out", "--json")
    assert made.code == 0, made.err
    assert made.json["tensors"] == len(plan.tensors)
    assert made.json["predicted"]["peak_bytes"] == found.json["plan"]["predicted"]["peak_bytes"]

    trained = cli("train", "out", "my_project:task", "--steps", 60, "--lr", 0.1, "--save", "ckpt", "--json")
    assert trained.code == 0, trained.err
    assert trained.json["steps"] == 60
    assert trained.json["loss"] < trained.json["first_loss"]
    assert trained.json["samples"] == 48

    again = cli("train", "out", "my_project:task", "--steps", 5, "--resume", "ckpt", "--json")
    assert again.json["steps"] == 65


def test_plans_by_name_and_training_on_a_file(project: Path, cli: Cli) -> None:
    made = cli("compile", "my_project:ready", "--plan", "biases:1", "--target", "torch", "--out", "out")
    assert made.code == 0, made.err
    assert "modelled peak" in made.out
    assert "Agrees with PyTorch" in made.out
    assert "Agrees with PyTorch" in cli("show", "out").out
    shown = cli("show", "out", "--json").json
    assert shown["target"] == "torch"
    assert shown["parity"]["gradient_deviation"] < 1e-5
    assert not shown["parity"]["forced"]

    import my_project  # pyright: ignore

    np.savez("data.npz", **my_project.samples(40, 3))
    trained = cli("train", "out", "--data", "data.npz", "--steps", 3, "--eval", "data.npz")
    assert trained.code == 0, trained.err
    assert "on 40 held-out samples" in trained.out
    assert "Agrees with PyTorch when it was compiled" in trained.err

    skipped = cli("compile", "my_project:ready", "--plan", "head", "--out", "new", "--no-parity", "--json")
    assert skipped.json["parity"] == "skipped"
    assert "Not compared with PyTorch" in cli("show", "new").out


def test_another_artefact_is_replaced_on_request_only(project: Path, cli: Cli) -> None:
    compile_head = ("compile", "my_project:ready", "--target", "torch", "--out", "out", "--no-parity")
    assert cli(*compile_head, "--plan", "head").code == 0
    before = {p.name: p.read_bytes() for p in Path("out").iterdir()}
    for options, difference in (
        (("--plan", "biases:1"), "conv2.bias (ratio 0, not 1)"),
        (("--plan", "head", "--target", "onnx"), "its target is torch, not onnx"),
        (("--plan", "head", "--optimizer", "adam"), "its optimizer is sgd, not adam"),
        (("--plan", "head", "--momentum", 0.5), "its optimizer's momentum is 0.9, not 0.5"),
    ):
        refused = cli(*compile_head, *options)
        assert refused.code == 2
        assert difference in refused.err
        assert "--replace" in refused.err
        assert {p.name: p.read_bytes() for p in Path("out").iterdir()} == before
    assert cli(*compile_head, "--plan", "head").code == 0
    assert cli(*compile_head, "--plan", "biases:1", "--replace").code == 0
    assert cli("show", "out", "--json").json["tensors"].keys() > {"conv2.bias"}
    assert cli(*compile_head, "--plan", "head", "--force").code == 0
    assert cli("show", "out", "--json").json["tensors"].keys() == {"head.weight", "head.bias"}


def test_native_code_needs_a_flag(project: Path, cli: Cli) -> None:
    made = cli(
        "compile", "my_project:ready", "--plan", "head", "--target", "torch", "--out", "out", "--no-parity"
    )
    assert made.code == 0, made.err
    library, manifest = Path("out/step.so"), Path("out/manifest.json")
    library.write_bytes(b"code")
    written = json.loads(manifest.read_text())
    written["files"]["step.so"] = {"sha256": file_sha256(library), "bytes": 4}
    manifest.write_text(json.dumps(written | {"native_code": ["step.so"]}))
    assert "Holds native code, which loading it runs: step.so" in cli("show", "out").out.replace("\n", " ")
    assert cli("show", "out", "--json").json["native_code"] == ["step.so"]
    refused = cli("train", "out", "my_project:ready", "--steps", 1)
    assert refused.code == 2
    assert "holds native code (step.so)" in refused.err.replace("\n", " ")
    assert cli("train", "out", "my_project:ready", "--steps", 1, "--allow-native-code").code == 0


def test_analysis_tells_what_each_tensor_gains(study: Path, cli: Cli) -> None:
    shown = cli("study", "show", study)
    assert shown.code == 0
    assert "conv2.weight" in shown.out
    figures = cli("study", "show", study, "--json").json
    assert figures["measured"] == figures["planned"] > 0
    assert figures["reference"] == "my_project:task"
    assert set(figures["contribution"]["weights"]["conv2.weight"]) == {"1.0", "0.5"}


def test_same_analysis_again_measures_nothing(study: Path, cli: Cli) -> None:
    def shown() -> dict:
        return {k: v for k, v in cli("study", "show", study, "--json").json.items() if k != "bytes"}

    before = shown()
    again = cli(
        "analyze",
        "my_project:task",
        "--study",
        study,
        "--steps",
        20,
        "--ratios",
        "1,0.5",
        "--lr",
        0.1,
        "--json",
    )
    assert again.code == 0, again.err
    assert shown() == before


def test_list_of_studies(study: Path, cli: Cli) -> None:
    (study.parent / "other.db").write_bytes(b"not a database at all, just bytes")
    listed = cli("study", "ls", study.parent, "--json").json
    assert [Path(s["path"]).name for s in listed] == ["study.db"]
    assert "my_project:task" in cli("study", "ls", study.parent).out


def test_frontier(study: Path, cli: Cli) -> None:
    found = cli("search", study, "--peak-mb", 1, "--frontier", 4, "--json")
    assert found.code == 0, found.err
    peaks = [p["predicted"]["peak_bytes"] for p in found.json["frontier"]]
    assert peaks == sorted(peaks)
    assert "Frontier" in cli("search", study, "--peak-mb", 1, "--frontier", 4).out


def test_budgets_of_time_and_process_memory(
    study: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for option, word in (("--step-ms", "times"), ("--process-mb", "process memory")):
        refused = cli("search", study, option, 1000)
        assert refused.code == 2
        assert f"no measured {word}" in refused.err
        assert "analyze --time" in refused.err
    few = functools.partial(device_kit.fitting_choices, count=4)  # each is a process, which takes seconds
    monkeypatch.setattr(device_kit, "fitting_choices", few)
    options = ["--steps", 20, "--ratios", "1,0.5", "--lr", 0.1]
    measured = cli("analyze", "my_project:task", "--study", study, *options, "--time")
    assert measured.code == 0, measured.err
    found = cli("search", study, "--step-ms", 1000, "--json")
    assert found.code == 0, found.err
    assert 0 < found.json["plan"]["predicted"]["step_ms"] <= 1000
    if not Path("/proc/self/status").exists():
        return  # the system says nothing of memory
    assert "process memory is off by less than" in measured.err
    plan_file = tmp_path / "plan.json"
    found = cli("search", study, "--process-mb", 1000, "--frontier", 3, "--out", plan_file)
    assert found.code == 0, found.err
    said = " ".join(found.out.split())
    assert "Process peak, predicted on openvino:" in said
    assert all(f"{part} " in said for part in ("runtime", "constants", "state", "activations"))
    predicted = Plan.load(plan_file).predicted
    parts = [predicted[f"process_{part}_bytes"] for part in ("runtime", "constants", "state", "activations")]
    assert predicted["peak_bytes"] < sum(parts) == predicted["process_bytes"] <= 1e9
    too_small = cli("search", study, "--process-mb", 1)
    assert too_small.code == 2
    assert "the memory of the process is limited to 1.000 MB, and the smallest feasible is" in too_small.err


def test_locked_tensor_stays_out(study: Path, cli: Cli) -> None:
    found = cli(
        "search", study, "--peak-mb", 1, "--lock", "conv1.weight=0", "--lock", "conv2.weight=0.5", "--json"
    )
    assert found.code == 0, found.err
    assert "conv1.weight" not in found.json["plan"]["ratios"]
    assert found.json["plan"]["ratios"]["conv2.weight"] == 0.5


def test_locks_by_pattern_and_constraints(study: Path, cli: Cli) -> None:
    asked = [
        "search",
        study,
        "--peak-mb",
        1,
        "--lock",
        "conv*.weight=frozen",
        "--lock",
        "conv2.*=free",
        "--json",
    ]
    asked += ["--max-tensors", 3, "--weights-need-bias", "--whole-blocks", "--frontier", 3]
    found = cli(*asked)
    assert found.code == 0, found.err
    for plan in (found.json["plan"], *found.json["frontier"]):
        assert "conv1.weight" not in plan["ratios"]
        assert len(plan["ratios"]) <= 3
    none = cli("search", study, "--peak-mb", 1, "--lock", "cnov1.*=0.5")
    assert none.code == 2
    assert "Did you mean 'conv1.*'" in none.err
    assert "frozen or free" in cli("search", study, "--peak-mb", 1, "--lock", "conv1.weight=frzen").err


def test_a_search_method_that_does_not_exist(study: Path, cli: Cli) -> None:
    refused = cli("search", study, "--peak-mb", 1, "--method", "greedy")
    assert refused.code == 2
    assert "'exact' or 'evolutionary'" in refused.err


def _measured(study: Path) -> int:
    """How many measurements a study holds, asked often: a command of ours would take longer than they do."""
    if not study.exists():
        return 0
    try:
        with contextlib.closing(sqlite3.connect(f"file:{study}?mode=ro", uri=True)) as db:
            return db.execute("SELECT count(*) FROM measurements WHERE status = 'done'").fetchone()[0]
    except sqlite3.OperationalError:  # the file is just being made
        return 0


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for child processes")
def test_ctrl_c_leaves_a_study_that_goes_on(project: Path, cli: Cli) -> None:
    command = [sys.executable, "-m", "pockui.cli", "analyze", "my_project:task", "--study", "study.db"]
    command += ["--steps", "1500", "--ratios", "1,0.5,0.25", "--lr", "0.01", "--target", "torch"]
    heard = functools.partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # a job in the background ignores it
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and not _measured(project / "study.db"):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130, words
    assert "The same command goes on from there." in words.splitlines()[-1]
    assert "Traceback" not in words
    kept = cli("study", "show", "study.db", "--json").json
    assert 0 < kept["measured"] < kept["planned"]


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for child processes")
def test_ctrl_c_in_the_middle_of_a_compilation_leaves_nothing(project: Path, cli: Cli) -> None:
    command = [sys.executable, "-m", "pockui.cli", "compile", "my_project:ready", "--plan", "head"]
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    compilation = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(project.glob(".out.*.pockui-partial/new/*")):
        time.sleep(0.005)
    compilation.send_signal(signal.SIGINT)
    printed, words = compilation.communicate(timeout=60)
    assert compilation.returncode == 130, words
    assert printed == ""
    assert words.splitlines()[3:] == ["Stopped."]
    assert sorted(p.name for p in project.iterdir() if p.name != "__pycache__") == ["my_project.py"]


def test_json_is_alone_on_standard_output(study: Path) -> None:
    command = [sys.executable, "-m", "pockui.cli", "search", str(study), "--peak-mb", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["plan"]
