"""Bad input ends with status 2 and one paragraph that says what, where and what to do."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from projects import Cli  # pyright: ignore

from pockui.foreign_exceptions import explain

BAD_REFERENCES = {
    "my_project": "module:task",
    "visoin": "'vision'",
    "my_projct:task": "'my_project'",
    "my_project:tsak": "'task'",
    "my_project:number": "is a int, not a Task",
    "my_project:nothing": "returned a NoneType",
    "my_project:needs": "without arguments",
}


@pytest.mark.parametrize("reference", BAD_REFERENCES)
def test_bad_reference(reference: str, project: Path, cli: Cli) -> None:
    result = cli("compile", reference, "--plan", "head")
    assert result.code == 2
    assert BAD_REFERENCES[reference] in result.err
    assert result.out == ""


def test_missing_package_of_a_project_is_named(project: Path, cli: Cli) -> None:
    (project / "needy.py").write_text("import a_package_nobody_has\n")
    result = cli("compile", "needy:task", "--plan", "head")
    assert result.code == 2
    assert "'a_package_nobody_has'" in result.err


CALLS = {
    "no such study": (("search", "none.db", "--peak-mb", 1), "There is no study none.db"),
    "no such plan": (("compile", "my_project:task", "--plan", "none.json"), "none.json"),
    "mistyped plan": (("compile", "my_project:task", "--plan", "ful"), "'full'"),
    "unknown optimizer": (
        ("compile", "my_project:task", "--plan", "full", "--optimizer", "sdg"),
        "'sgd'",
    ),
    "group of no tensor": (
        ("compile", "my_project:task", "--plan", "full", "--group", "*.bais:lr_scale=2"),
        "'*.bias'",
    ),
    "unknown option of a group": (
        ("compile", "my_project:task", "--plan", "full", "--group", "*.bias:lr_scael=2"),
        "'lr_scale'",
    ),
    "bad group": (("compile", "my_project:task", "--plan", "full", "--group", "*.bias"), "--group"),
    "unknown target": (("compile", "my_project:task", "--plan", "full", "--target", "openvin"), "'openvino'"),
    "unknown target option": (
        ("compile", "my_project:task", "--plan", "full", "--option", "speed=9"),
        "speed",
    ),
    "no artefact": (("train", "none", "my_project:task"), "none"),
    "nothing to train on": (("train", "out"), "--data"),
    "bad ratios": (
        ("analyze", "my_project:task", "--study", "s.db", "--ratios", "1;0.5"),
        "--ratios",
    ),
    "ratio above one": (("analyze", "my_project:task", "--study", "s.db", "--ratios", "2"), "at most 1"),
    "no such report": (("report", "none.json"), "none.json"),
    "no such folder": (("study", "ls", "none"), "none"),
    "serve what": (("serve", "none.db"), "none.db"),
}


@pytest.mark.parametrize("case", CALLS)
def test_bad_input(case: str, project: Path, cli: Cli) -> None:
    arguments, words = CALLS[case]
    result = cli(*arguments)
    assert result.code == 2, result
    assert words in result.err
    assert "Traceback" not in result.err
    assert not (project / "s.db").exists()
    assert not (project / "out").exists()


def test_budgets(study: Path, cli: Cli) -> None:
    small = cli("search", study, "--peak-mb", 0.001)
    assert small.code == 2
    assert "smallest feasible" in small.err
    none = cli("search", study)
    assert none.code == 2
    said = " ".join(none.err.split())
    assert re.search(r"--peak-mb from 0\.0\d+ MB \(peak memory of the head alone\) to \d+\.?\d* kB", said)
    assert "--step-ms once some plans were measured" in said
    (least,) = re.findall(r"--peak-mb from (\S+) MB", said)
    assert cli("search", study, "--peak-mb", least).code == 0, "what is named as feasible is"
    mistyped = cli("search", study, "--peak-mb", 1, "--lock", "conv2.wieght=1")
    assert mistyped.code == 2
    assert "'conv2.weight'" in mistyped.err
    assert cli("search", study, "--peak-mb", 1, "--lock", "conv2.weight").code == 2


def test_diverged_training_is_a_failure_of_the_work(project: Path, cli: Cli) -> None:
    assert cli("compile", "my_project:task", "--plan", "full", "--out", "out").code == 0
    result = cli("train", "out", "my_project:task", "--steps", 50, "--lr", 1e30)
    assert result.code == 1
    assert "lower" in result.err


def test_usage_errors(cli: Cli) -> None:
    assert cli("serch").code == 2
    assert cli("search").code == 2
    assert cli("demo", "audio").code == 2
    assert cli("bench", "vision", "--batch", "0").code == 2


BROKEN = {
    "a syntax error": ("import os\ndef task(:\n", ("broken.py, line 2", "cannot read this")),
    "an exception while it is imported": ("x = 1\ny = {}['a']\n", ("broken.py, line 2", "KeyError")),
    "an exception in the function": (
        "def task():\n    return 1 / 0\n",
        ("broken.py, line 2, in task", "division"),
    ),
    "an exception without words": ("def task():\n    raise ValueError\n", ("line 2, in task: ValueError.",)),
    "a file that is not there": ("def task():\n    open('none.csv')\n", ("line 2, in task", "none.csv")),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_mistake_in_ones_own_project_is_told_with_its_line(case: str, project: Path, cli: Cli) -> None:
    source, words = BROKEN[case]
    (project / "broken.py").write_text(source)
    sys.modules.pop("broken", None)
    result = cli("compile", "broken:task", "--plan", "head")
    assert result.code == 2, result
    assert all(word in result.err for word in words), result.err
    assert "Traceback" not in result.err


def test_a_bug_of_this_program_is_called_a_bug_and_has_its_own_exit_status(
    project: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pockui.commands.studies.open_study", None)
    result = cli("study", "show", "a.db")
    assert result.code == 70
    assert "bug of pockui: TypeError" in result.err
    assert "--debug" in result.err


def test_foreign_exceptions_are_explained() -> None:
    needs = ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime.capi")
    assert explain(needs) == (
        "This needs the package 'onnxruntime'. Install it with: pip install 'pockui[onnx]'", 2,
    )  # fmt: skip
    text, code = explain(PermissionError(13, "Permission denied", "out/plan.json"))
    assert code == 2
    assert "Cannot use out/plan.json: permission denied" in text
    assert explain(OSError(28, "No space left on device"))[1] == 2
    assert explain(MemoryError())[1] == 2
    assert explain(RuntimeError("odd"))[1] == 70
