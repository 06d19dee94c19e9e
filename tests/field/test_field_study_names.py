"""What a study's names may do: files stay in their folder, and no code runs that only a file names."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from study_files import change
from typer.testing import CliRunner

from pockgraph.errors import PockError, TaskError
from pockgraph.study import study as study_module
from pockui import project
from pockui.cli import app
from pockui.facts import read_facts
from pockui.info.names import file_name
from pockui.state import State
from pockui.train_job import checkpoint_of
from pockui.views.train import Train

NAMES = [
    "../x", "/etc/x", "..", ".", "", "a/b", "a\\b", "x" * 300, "Größe", "模型", "nul", "COM1.v2", "-rf",
    ".hidden", "a\0b", "a\nb", "a b", "net.v1.", "C:x", "~", "\ud800",
]  # fmt: skip


def test_whatever_a_task_is_called_its_files_stay_in_their_folder(tmp_path: Path) -> None:
    seen = set()
    for name in NAMES:
        found = file_name(name)
        assert 0 < len(found) < 100
        assert (tmp_path / found).parent == tmp_path == (tmp_path / f"{found}.safetensors").resolve().parent
        (tmp_path / found).mkdir()
        seen.add(found.lower())
    assert len(seen) == len(NAMES), "two names share one file"
    assert file_name("net.v1.0") == "net.v1.0"


def test_versions_in_names_do_not_share_a_checkpoint() -> None:
    assert checkpoint_of("out/net.v1.0") != checkpoint_of("out/net.v1.1")
    assert checkpoint_of("out/net.v1.0").name == "net.v1.0.safetensors"


def seen_by_the_dashboard(path: Path, monkeypatch: pytest.MonkeyPatch, *named: str) -> Train:
    """The train view of a server that was started with `--task` of each name."""
    monkeypatch.setattr(project, "_NAMED", [])
    monkeypatch.setattr(study_module, "OPENED_WITH", set())
    for name in named:
        project.name_task(name)
    state = State()
    state.show(read_facts(path))
    return Train(state)


@pytest.fixture
def malicious(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study from somebody else, which says that its task is in a module that lies here."""
    (tmp_path / "intruder.py").write_text("from pathlib import Path\nPath('was_here').touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    change(study_file, "UPDATE facts SET value = '\"intruder:task\"' WHERE key = 'reference'")
    change(study_file, "UPDATE facts SET value = '\"../../<b>x\"' WHERE key = 'name'")
    return study_file


def test_a_study_file_alone_starts_no_code(malicious: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = seen_by_the_dashboard(malicious, monkeypatch)
    assert view._start.disabled
    assert "a file&#x27;s word is not enough" in view._why.object
    assert f"pockui serve {malicious} --task intruder:task" in view._why.object
    with pytest.raises(PockError, match="word is not enough"):
        view.start()
    assert not Path("was_here").exists()
    assert view.training.folder("onnx").parent == Path("out")


def test_what_the_user_named_is_what_is_run_and_the_page_says_so(
    malicious: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = seen_by_the_dashboard(malicious, monkeypatch, "users:task")
    assert not view._start.disabled
    assert "Runs <code>users:task</code>" in view._runs.object
    started: list[Any] = []
    monkeypatch.setattr(view.training._jobs, "start", lambda *given: started.append(given))
    with contextlib.suppress(AttributeError):  # there is no job to follow
        view.start()
    assert started[0][2]["reference"] == "users:task"
    assert not Path("was_here").exists()


def test_the_demo_and_a_task_of_this_process_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "_NAMED", [])
    assert project.named_reference(project.DEMOS["vision"]) == project.DEMOS["vision"]
    assert project.named_reference("pockui.demo.experiment:anything") == ""
    assert project.named_reference("os:abort") == ""
    monkeypatch.setenv(project.ENVIRONMENT, "mine:task")
    assert project.named_reference("os:abort") == "mine:task"
    monkeypatch.delenv(project.ENVIRONMENT)
    project.name_task("os:abort")
    assert project.named_reference("os:abort") == "os:abort"


def test_the_file_of_a_task_is_told_as_the_module_that_it_is() -> None:
    with pytest.raises(
        TaskError, match=r"in the folder that holds my_project\.py, and write my_project:mine\."
    ):
        project.name_task("../code/my_project.py:mine")


@pytest.mark.parametrize("reference", ["", ":", "a:", ":b", "a b:c", "a.:b", "../a:b", "a:b.c", "a:b()"])
def test_what_names_no_task_is_refused_before_anything_is_imported(reference: str) -> None:
    for refused in (project.load_task, project.name_task):
        with pytest.raises(TaskError, match="names no task"):
            refused(reference)
    assert CliRunner().invoke(app, ["serve", "--task", reference or ":", "none.db"]).exit_code == 2
