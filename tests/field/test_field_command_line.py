"""What users type, and what their projects and files hold, by mistake: each is told in one paragraph.

Every case ends with the status that is documented, without a traceback, and with the words that are needed:
what is wrong, where (the user's own file and line where that is the cause), and what to do.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from project_on_disk import one_paragraph, told, told_by_device
from typer.testing import CliRunner

from pockgraph.measure.command import main as measure
from pockgraph.runtime.command import main as device
from pockui.cli import app

# ---------------------------------------------------------------- the user's own project


OWN_CODE = {
    "a syntax error": ("def task(:\n", ("mine.py, line 1", "cannot read this", "Mend it")),
    "a null byte": ("x = 1\0\n", ("'mine'", "null bytes", "Mend")),
    "a package that is not installed": ("import nobody_has_this\n", ("'nobody_has_this'", "Install it")),
    "a name that a package lacks": ("from numpy import arange_\n", ("mine.py, line 1", "arange_")),
    "ends the program": ("import sys\nsys.exit('bye')\n", ("mine.py, line 2", "bye", "__main__")),
    "a model instead of a task": (
        "from torch import nn\ntask = nn.Linear(2, 2)\n", ("is a model", "pockgraph.Task"),
    ),
    "a number instead of a task": ("task = 3\n", ("is a int, not a Task", "Point to")),
    "a function with arguments": ("def task(size): ...\n", ("without arguments", "defaults")),
    "a function that returns nothing": ("def task(): ...\n", ("returned a NoneType", "Return")),
    "a function that raises": ("def task():\n    return {}['a']\n", ("mine.py, line 2, in task: KeyError",)),
    "an exception whose text raises": (
        "class E(Exception):\n    def __str__(self): return 1 / 0\ndef task(): raise E\n",
        ("line 3, in task: E.",)
    ),
    "weights of another model": (
        "from my_project import *\ndef task():\n    Net().load_state_dict({'a': torch.ones(1)})\n",
        ("mine.py, line 3", "Missing key(s)", "fc.weight"),
    ),
    "a model that is none": (
        "from my_project import *\ntask = lambda: make(model=3)\n", ("model is a int", "Pass"),
    ),
    "a loss that is none": (
        "from my_project import *\ntask = lambda: make(loss='mse')\n", ("`loss` is a str", "Pass"),
    ),
    "a task without a name": (
        "from my_project import *\ntask = lambda: make(name=None)\n", ("name=None", "text"),
    ),
    "a model that raises": (
        "from my_project import *\nclass M(Net):\n    def forward(self, x):\n        return x.nothing\n"
        "task = lambda: make(model=M())\n", ("mine.py:4", "'nothing'"),
    ),
    "layers that do not fit": (
        "from my_project import *\nclass M(Net):\n    def forward(self, x):\n        return self.head(x)\n"
        "task = lambda: make(model=M())\n", ("mine.py:4", "same reduction dim"),
    ),
    "a loss that raises": (
        "from my_project import *\ndef loss(model, batch):\n    return batch['z']\n"
        "task = lambda: make(loss=loss)\n", ("mine.py:3", "KeyError: 'z'"),
    ),
    "a metric that raises": (
        "from my_project import *\ndef metric(model, batch):\n    raise ValueError('no metric')\n"
        "task = lambda: make(metric=metric)\n", ("the metric", "mine.py:3", "no metric"),
    ),
    "data that raise": (
        "from my_project import *\nclass Data:\n    def __iter__(self):\n        yield open('none.csv')\n"
        "task = lambda: make(train=Data())\n", ("`train`", "batch 1", "mine.py:4", "none.csv"),
    ),
    "a transform that raises": (
        "from my_project import *\ndef larger(batch):\n    return batch['z']\n"
        "task = lambda: make(train=pg.Batches(arrays(), 8, transform=larger))\n",
        ("`train`", "mine.py:3", "'z'"),
    ),
    "data that are a path": (
        "from my_project import *\ntask = lambda: make(train='a.csv')\n", ("`train`", "str"),
    ),
    "no data": ("from my_project import *\ntask = lambda: make(train=[])\n", ("no batches", "at least one")),
}  # fmt: skip


@pytest.mark.parametrize("case", OWN_CODE)
def test_a_mistake_in_the_project_is_told_with_its_line(case: str, project: Path) -> None:
    source, words = OWN_CODE[case]
    (project / "mine.py").write_text(source)
    said = told("compile", "mine:task", "--plan", "full")
    assert [w for w in words if w not in said] == [], said
    assert not (project / "out" / ".new").exists()


# ---------------------------------------------------------------- commands


COMPILE = ("compile", "my_project:task", "--out", "new", "--plan")
ANALYZE = ("analyze", "my_project:task", "--study", "new.db")
SEARCH = ("search", "study.db")
TRAIN = ("train", "out", "--data")

COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "mistyped command": (("serch",), ("serch", "search")),
    "mistyped module": (
        ("compile", "my_projct:task", "--plan", "full"), ("my_projct", "Did you mean 'my_project'"),
    ),
    "mistyped task": (("compile", "my_project:tsk", "--plan", "full"), ("'tsk'", "Did you mean 'task'")),
    "file instead of module": (("compile", "./my_project.py", "--plan", "full"), ("my_project:task",)),
    "mistyped target": ((*COMPILE, "full", "--target", "openvio"), ("'openvio'", "Did you mean 'openvino'")),
    "mistyped plan": ((*COMPILE, "presett"), ("'presett'", "Did you mean 'preset'")),
    "biases of no number": ((*COMPILE, "biases:²"), ("biases:K",)),
    "mistyped optimizer": ((*COMPILE, "full", "--optimizer", "adma"), ("'adma'", "Did you mean 'adam'")),
    "mistyped option": ((*COMPILE, "full", "--optimiser", "sgd"), ("--optimiser", "--optimizer")),
    "momentum in words": ((*COMPILE, "full", "--momentum", "big"), ("--momentum", "number")),
    "momentum NaN": ((*COMPILE, "full", "--momentum", "nan"), ("momentum", "finite")),
    "option of no value": ((*COMPILE, "full", "--option", "fast"), ("NAME=VALUE", "'fast'")),
    "precision that is none": (
        (*COMPILE, "full", "--option", "precision=f23"), ("f23", "Did you mean 'f32'"),
    ),
    "folder with other files": (
        (*COMPILE, "full", "--out", "used"), ("used is not empty", "Choose another folder"),
    ),
    "no plan file": ((*COMPILE, "none.json"), ("none.json", "no such file", "Check the path")),
    "folder as plan": ((*COMPILE, "used"), ("used", "folder")),
    "pipe as plan": ((*COMPILE, "pipe"), ("pipe", "device")),
    "circle of links as plan": ((*COMPILE, "./circle"), ("circle", "symbolic links")),
    "plan cut short": ((*COMPILE, "cut.json"), ("cut.json is not JSON", "copy it anew")),
    "plan nested too deeply": ((*COMPILE, "deep.json"), ("deep.json", "nested too deeply")),
    "plan that is a list": ((*COMPILE, "list.json"), ("list.json is not a valid plan", "object")),
    "plan of a newer version": ((*COMPILE, "newer.json"), ("pockui.plan/9", "this version reads")),
    "plan with more in it": ((*COMPILE, "extra.json"), ("colour", "no such entry")),
    "plan that is no UTF-8": ((*COMPILE, "latin.json"), ("latin.json", "not UTF-8")),
    "plan of another model": ((*COMPILE, "another.json"), ("another model", "fd.weight", "Make a plan")),
    "budget NaN": ((*SEARCH, "--peak-mb", "nan"), ("--peak-mb", "above 0", "nan")),
    "budget without end": ((*SEARCH, "--extra-mb", "1e999"), ("--extra-mb", "inf")),
    "budget below zero": ((*SEARCH, "--peak-mb", "-1"), ("--peak-mb", "above 0")),
    "budget with a unit": ((*SEARCH, "--peak-mb", "40MB"), ("--peak-mb", "number")),
    "time below zero": ((*SEARCH, "--step-ms", "-5"), ("step_ms", "above 0")),
    "time that was not measured": (
        (*SEARCH, "--step-ms", "5"), ("no measured times", "Measure some plans", "--time"),
    ),
    "no budget": (SEARCH, ("--peak-mb", "--step-ms")),
    "mistyped tensor": ((*SEARCH, "--peak-mb", "9", "--lock", "fc.wieght=1"), ("Did you mean 'fc.weight'",)),
    "plan to a folder": (
        (*SEARCH, "--peak-mb", "9", "--out", "used"), ("used is a folder", "Name the plan"),
    ),
    "study that is a folder": (
        ("search", "used", "--peak-mb", "9"), ("used is no study", "folder", "Choose a file"),
    ),
    "study that is text": (("search", "text.txt", "--peak-mb", "9"), ("text.txt is no study",)),
    "study that is a pipe": (("study", "show", "pipe"), ("no study", "pipe")),
    "study of no path": (("study", "show", "circle"), ("circle", "Choose another path")),
    "no study": (("serve", "none.db"), ("There is no study none.db", "pockui analyze")),
    "another optimizer than the study's": (
        ("analyze", "my_project:task", "--study", "study.db", "--optimizer", "adam"),
        ("optimizer", "another file"),
    ),
    "no steps": ((*ANALYZE, "--steps", "0"), ("--steps", "1")),
    "steps in words": ((*ANALYZE, "--steps", "ten"), ("--steps", "integer")),
    "steps without end": ((*ANALYZE, "--steps", "1" + "0" * 40), ("steps must be 1 to",)),
    "rate without end": ((*ANALYZE, "--lr", "inf"), ("lr must be positive and finite",)),
    "tensors that are none": ((*ANALYZE, "--tensors", "conv*"), ("conv*", "fc.weight")),
    "artefact that is a file": (("show", "text.txt"), ("no artefact folder", "Compile one")),
    "artefact of no manifest": (("show", "bare"), ("bare is not an artefact", "manifest.json")),
    "artefact that is a study": (("show", "study.db"), ("no artefact folder",)),
    "artefact of an endless name": (("show", "a" * 300), ("name too long",)),
    "artefact of a name of bytes": (("train", "\udcff", "--data", "data.npz"), ("not UTF-8", "Rename")),
    "operators of another target": (("operators", "out"), ("target 'onnx'",)),
    "report that is a pipe": (("report", "pipe"), ("report", "Pass the report.json")),
    "report that is text": (("report", "text.txt"), ("not a valid report",)),
    "report that is binary": (("report", "binary.bin"), ("not UTF-8", "report.json")),
    "mistyped demo": (("demo", "visoin"), ("visoin", "vision")),
    "image of no size": (("bench", "--px", "5"), ("--px", "32")),
    "mistyped benchmark": (("bench", "txt"), ("txt", "text")),
    "port that is none": (("serve", "--port", "99999"), ("--port", "65535")),
    "no data": (("train", "out"), ("--data",)),
    "data of no file": ((*TRAIN, "none.npz"), ("none.npz", "no such file", "numpy.savez")),
    "data that are text": ((*TRAIN, "text.txt"), ("text.txt", "another kind of file", "numpy.savez")),
    "data that are a pipe": ((*TRAIN, "pipe"), ("pipe", "numpy.savez")),
    "data without a name": ((*TRAIN, "lacks.npz"), ("lacks 'y'", "an array for each")),
    "data of another shape": ((*TRAIN, "narrow.npz"), ("[8, 3] instead of [8, 4]", "Bring the data")),
    "data of two lengths": ((*TRAIN, "short.npz"), ("common number of samples", "'x': 9")),
    "data of no rows": ((*TRAIN, "empty.npz"), ("holds no samples",)),
    "data of words": ((*TRAIN, "words.npz"), ("not a number", "Encode")),
    "data of Python objects": ((*TRAIN, "objects.npz"), ("Python objects", "numpy.savez")),
    "checkpoint that is an artefact": ((*TRAIN, "data.npz", "--resume", "out"), ("out",)),
    "checkpoint that is text": ((*TRAIN, "data.npz", "--resume", "text.txt"), ("text.txt",)),
    "checkpoint over a study": ((*TRAIN, "data.npz", "--save", "study.db"), ("study.db", "no checkpoint")),
    "checkpoint over a plan": ((*TRAIN, "data.npz", "--save", "plan.json"), ("plan.json", "no checkpoint")),
    "checkpoint over weights": (
        (*TRAIN, "data.npz", "--save", "out/state.safetensors"), ("state.safetensors", "no checkpoint"),
    ),
    "plan over the study": ((*SEARCH, "--peak-mb", "9", "--out", "study.db"), ("study.db", "no plan")),
    "plan over data": ((*SEARCH, "--peak-mb", "9", "--out", "data.npz"), ("data.npz", "no plan")),
    "data over code": (("data", "my_project:task", "--out", "my_project.py"), ("my_project.py", "no npz"),),
    "steps of the train without end": ((*TRAIN, "data.npz", "--steps", "9" * 20), ("--steps", "2147483647")),
    "seeds without end": ((*ANALYZE, "--seeds", "9" * 25), ("--seeds", "1000")),
    "workers without end": ((*ANALYZE, "--workers", "100000"), ("--workers", "1024")),
    "frontier without end": ((*SEARCH, "--frontier", "1000000000"), ("--frontier", "1000")),
    "checkpoint over an artefact": ((*TRAIN, "data.npz", "--save", "out", "--steps", "1"), ("is a folder",)),
    "rate that is NaN": ((*TRAIN, "data.npz", "--lr", "nan"), ("lr=nan", "finite")),
    "threads without end": ((*TRAIN, "data.npz", "--threads", "9" * 30), ("threads", "4096")),
    "mistyped device": ((*TRAIN, "data.npz", "--device", "CPUU"), ("'CPUU'", "Did you mean 'CPU'")),
    "minutes": ((*TRAIN, "data.npz", "--save-every", "60m"), ("60m", "60s")),
}  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    """What the user's files hold."""
    skipped = {"__pycache__", "pipe", "circle"}
    files = (p for p in folder.rglob("*") if skipped.isdisjoint(p.relative_to(folder).parts))
    return {str(p): p.read_bytes() for p in files if p.is_file() and not p.name.startswith("study.db-")}


@pytest.mark.parametrize("case", COMMANDS)
def test_a_mistake_in_a_command_is_told_in_one_paragraph(case: str, project: Path) -> None:
    command, words = COMMANDS[case]
    before = contents(project)
    said = told(*command)
    assert [w for w in words if w not in said] == [], said
    assert not (project / "new").exists()
    assert before.items() <= contents(project).items()


def test_a_study_is_not_exported_over_itself(project: Path) -> None:
    study = (project / "study.db").rename(project / "study.csv")
    before = study.read_bytes()
    assert "study.csv is the study itself" in told("study", "export", "study.csv", "study.csv")
    assert study.read_bytes() == before


def test_a_folder_that_is_gone_is_told_by_every_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder := tmp_path / "gone").mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    for command in (("doctor",), ("study", "ls"), ("show", "out"), ("demo", "vision")):
        assert "started in is gone" in told(*command)
    assert "started in is gone" in told_by_device(capfd, "out", "--data", "data.npz", "--steps", "1")
    assert measure(["out", "--batch", "data.npz"]) == 2
    assert "started in is gone" in capfd.readouterr().err


def test_a_batch_of_nan_is_told_with_its_place(project: Path) -> None:
    said = told(*TRAIN, "nan.npz")
    assert "'x'" in said
    assert "NaN" in said


ON_THE_DEVICE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "no artefact": (("none", "--data", "data.npz", "--steps", "1"), ("no artefact folder", "none")),
    "steps in words": (("out", "--data", "data.npz", "--steps", "ten"), ("--steps", "'ten'", "whole number")),
    "steps below zero": (("out", "--data", "data.npz", "--steps", "-1"), ("--steps", "whole number")),
    "steps without end": (("out", "--data", "data.npz", "--steps", "9" * 5000), ("--steps", "whole number")),
    "threads of none": (("out", "--data", "data.npz", "--steps", "1", "--threads", "0"), ("--threads",)),
    "threads without end": (("out", "--data", "data.npz", "--steps", "1", "--threads", "99999"), ("4096",)),
    "data that are text": (("out", "--data", "text.txt", "--steps", "1"), ("text.txt", "numpy.savez")),
    "data of Python objects": (("out", "--data", "objects.npz", "--steps", "1"), ("Python objects",)),
    "checkpoint that is a folder": (
        ("out", "--data", "data.npz", "--steps", "1", "--resume", "used"), ("used",),
    ),
    "checkpoint over weights": (
        ("out", "--data", "data.npz", "--steps", "1", "--save", "out/state.safetensors"),
        ("state.safetensors exists and is no checkpoint", "Choose another place"),
    ),
    "checkpoint over the data": (
        ("out", "--data", "data.npz", "--steps", "1", "--save", "data.npz"), ("is no checkpoint",),
    ),
    "checkpoint over a folder, told before any step": (
        ("out", "--data", "data.npz", "--steps", "1", "--save", "out"),
        ("out is a folder", "Name the checkpoint"),
    ),
    "mistyped device": (("out", "--data", "data.npz", "--steps", "1", "--device", "GPUU"), ("GPUU", "CPU")),
}  # fmt: skip


@pytest.mark.parametrize("case", ON_THE_DEVICE)
def test_a_mistake_on_the_device_is_told_in_one_paragraph(
    case: str, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command, words = ON_THE_DEVICE[case]
    before = contents(project)
    said = told_by_device(capfd, *command)
    assert [w for w in words if w not in said] == [], said
    assert before.items() <= contents(project).items()


# ---------------------------------------------------------------- what is not installed


MISSING = {
    "torch": (("compile", "my_project:task", "--plan", "full"), ("'torch'", "pockui[app]")),
    "onnx": (("operators", "out"), ("'onnx'", "pockui[app]")),
    "panel": (("serve", "study.db", "--no-show"), ("'panel'", "pockui[app]")),
    "openvino": (("train", "out", "--data", "data.npz"), ("'openvino'", "Install it")),
}


@pytest.mark.parametrize("package", MISSING)
def test_a_package_that_is_missing_is_named_with_its_extra(package: str, project: Path) -> None:
    command, words = MISSING[package]
    run = f"import sys; sys.modules[{package!r}] = None; from pockui.__main__ import main; main()"
    ended = subprocess.run([sys.executable, "-c", run, *command], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2, ended.stderr
    said = one_paragraph(ended.stderr)
    assert [w for w in words if w not in said] == [], said


def test_the_command_line_without_typer_says_what_to_install() -> None:
    run = "import sys; sys.modules['typer'] = None; from pockui.__main__ import main; main()"
    ended = subprocess.run([sys.executable, "-c", run, "doctor"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "pip install 'pockui[app]'" in ended.stderr
    assert "python -m pockgraph.runtime" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_doctor_runs_where_only_the_device_packages_are(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("torch", "onnx", "onnxruntime", "panel"):
            raise importlib.metadata.PackageNotFoundError(name)
        return versions(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "torch is not installed" in result.stdout


# ---------------------------------------------------------------- the whole traceback, and our own bugs


def test_debug_shows_the_traceback_before_the_paragraph(project: Path) -> None:
    (project / "mine.py").write_text("def task():\n    return 1 / 0\n")
    result = CliRunner().invoke(app, ["--debug", "compile", "mine:task", "--plan", "full"])
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.rstrip().endswith("shows the whole traceback.")


def test_a_bug_on_the_device_says_that_it_is_one(
    project: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pockgraph.runtime.command.sweep", {}.__getitem__)
    command = ["out", "--data", "data.npz", "--steps", "1", "--save", "c"]
    assert device(command) == 70
    first = capfd.readouterr().err
    assert "bug of pockui: KeyError" in first
    assert "Traceback" not in first
    assert device([*command, "--debug"]) == 70
    assert "Traceback" in capfd.readouterr().err


def test_output_that_nobody_reads_ends_the_device_run_with_its_checkpoint(project: Path) -> None:
    command = ["out", "--data", "data.npz", "--steps", "2000000", "--every", "1", "--save", "c"]
    with subprocess.Popen(
        [sys.executable, "-m", "pockgraph.runtime", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.readline()
        run.stdout.close()
        assert run.wait(60) == 141
        assert run.stderr.read() == b""
    assert (project / "c").exists()


def test_a_locale_of_ascii_gets_the_same_paragraph(project: Path) -> None:
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run(
        [sys.executable, "-m", "pockui", "show", "größe"], capture_output=True, timeout=60, env=environment
    )
    assert ended.returncode == 2
    assert b"no artefact folder gr" in ended.stderr
    assert b"Traceback" not in ended.stderr
