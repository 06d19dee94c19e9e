"""A study made from the page: what may be chosen, how it goes, and what is said, without a browser."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from pockgraph.errors import PockError
from pockgraph.study import Study
from pockui import project
from pockui.info.own_tasks import tasks_in
from pockui.info.study_list import study_entries
from pockui.info.study_progress import made_text, making_progress
from pockui.jobs import Jobs
from pockui.new_study import NewStudy, checked_path
from pockui.scheduling import AtOnce
from pockui.study_job import StudySpec, make
from pockui.views.new_study import MakeStudy
from pockui.views.start import start

UI_TASK = Path(__file__).with_name("ui_task.py")


class Events(list[dict[str, Any]]):
    """Collects what a worker reports."""

    def __call__(self, kind: str, **data: Any) -> None:
        self.append({"kind": kind, **data})


class AsksToEnd(Events):
    """Asks to end at the first measurement; a `Stop` of a worker, too."""

    asked = False

    def __call__(self, kind: str, **data: Any) -> None:
        super().__call__(kind, **data)
        self.asked = self.asked or (kind == "measured" and data["done"] > 0)


class FakeJobs(Jobs):
    """Starts `echo_worker` instead: nothing is measured."""

    def __init__(self, **says: Any) -> None:
        super().__init__()
        self.says, self.asked = says, []

    def start(self, title: str, module: str, spec: Any, id: str = "") -> Any:
        self.asked.append(spec)
        job = super().start(title, "echo_worker", {**spec, **self.says}, id)
        job.module, job.spec = module, dict(spec)
        return job


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(project, "_NAMED", [])
    monkeypatch.setattr(project, "_ALLOWED", set())
    monkeypatch.setattr("pockgraph.study.study.OPENED_WITH", set())
    return tmp_path


def test_tasks_are_found_without_importing_anything(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "import pockgraph as pg\nraise SystemExit\n"
        "def task(): ...\ndef small() -> pg.Task: ...\ndef sized(n) -> pg.Task: ...\n"
        "def _hidden() -> pg.Task: ...\nready = pg.Task(name='x')\nother = dict()\n"
    )
    (folder / "broken.py").write_text("def task(:")
    assert tasks_in(folder) == ["mine:task", "mine:small", "mine:ready"]
    assert {"mine:task", "vision", "text"} <= set(NewStudy(AtOnce()).choices().values())
    assert set(NewStudy(AtOnce(), own_tasks=False).choices().values()) == {"vision", "text"}


def test_a_study_is_made_cancelled_and_gone_on_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = StudySpec("ui_task:task", "out/blobs.db")
    monkeypatch.setattr("pockui.study_job.settings", lambda *_: {"steps": 3, "ratios": (1.0,), "lr": 0.05})
    told: Any = AsksToEnd()
    told.kept = Events.copy  # no signal may come in between
    stop: Any = StopsWith(told)
    make(spec, told, stop)
    (stopped,) = [e for e in told if e["kind"] == "stopped"]
    assert 0 < stopped["done"] < stopped["total"]
    (entry,) = study_entries([Path(spec.study)])
    assert entry.is_measured
    assert entry.note == f"{stopped['done']} of {stopped['total']} measured"
    assert made_text("cancelled", told).startswith(f"Cancelled after {stopped['done']} of {stopped['total']}")

    again: Any = Events()
    make(spec, again)
    assert again[-1] == {"kind": "result", "study": "out/blobs.db"}
    first = next(e for e in again if e["kind"] == "measured")
    assert first["done"] >= stopped["done"], "what was measured is not measured again"
    assert making_progress(again[:-1]).share == 1
    with Study(spec.study, read_only=True) as study:
        assert study.reference == "ui_task:task"
        assert study.contribution.weights
        assert study.profile.tensors, "it opens where there is no model"
    assert study_entries([Path(spec.study)])[0].note == "measured"


class StopsWith:
    """A `Stop` that is asked to end by what it watches."""

    def __init__(self, told: AsksToEnd) -> None:
        self._told = told

    @property
    def asked(self) -> bool:
        return self._told.asked

    def kept(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()


def test_what_cannot_be_made_is_said_in_place_and_starts_nothing(folder: Path, study_path: Path) -> None:
    (folder / "out").mkdir()
    shutil.copy(study_path, folder / "out/taken.db")
    (folder / "out/notes.db").write_text("notes")
    (folder / "my_project.py").write_text("def task(): ...")
    jobs = FakeJobs()
    view = MakeStudy(NewStudy(AtOnce(), jobs=jobs), lambda path: None)
    view._task.value = ""
    assert view._reference.visible
    for typed, name, says in (
        ("", "x", "Name the task"),
        ("my_projct:task", "x", "Did you mean &#x27;my_project&#x27;"),
        ("my_project", "x", "names no task"),
        ("my_project:task", "../x", "cannot be a study"),
        ("my_project:task", "", "cannot be a study"),
        ("my_project:task", "taken", "is a study of ui_task:task"),
        ("my_project:task", "notes", "no study that can be read"),
    ):
        view._reference.value, view._name.value = typed, name
        view.start()
        assert says in view._problem.object, (typed, name)
        assert 'role="alert"' in view._problem.object
    assert jobs.asked == []
    guarded = NewStudy(AtOnce(), own_tasks=False, jobs=jobs)
    with pytest.raises(PockError, match="only built-in tasks"):
        guarded.start("my_project:task", "x", False)
    assert checked_path("taken", "ui_task:task") == Path("out/taken.db"), "the same task goes on"


@pytest.mark.usefixtures("worker_finds_task")
def test_the_page_follows_a_study_that_is_made_and_opens_it_once(folder: Path) -> None:
    shutil.copy(UI_TASK, folder / "my_project.py")
    events = [
        {"kind": "stage", "text": "Loading the task"},
        {"kind": "measured", "done": 3, "total": 12, "text": "head", "left_s": 9.0},
    ]
    opened: list[str] = []
    jobs = FakeJobs(events=events, last={"kind": "stopped", "done": 3, "total": 12})
    view = MakeStudy(NewStudy(AtOnce(), jobs=jobs), opened.append)
    view._task.value = "my_project:task"
    assert view._name.value == "my_project"
    assert project.named_reference("my_project:task") == ""
    view.start()
    assert jobs.asked == [{"reference": "my_project:task", "study": "out/my_project.db", "thorough": False}]
    assert project.named_reference("my_project:task") == "my_project:task", "its owner may train it, too"
    assert project.named_reference("other:task") == "", "and no other"
    job = view.making.job
    assert job is not None
    limit = time.monotonic() + 60
    while "Measured 3 of 12, 9 s left: head" not in view._stage.object:
        assert time.monotonic() < limit
        time.sleep(0.02)
    assert view._cancel.visible

    reloaded = MakeStudy(NewStudy(AtOnce(), jobs=jobs), opened.append)
    assert reloaded._stage.object == view._stage.object
    reloaded.making.cancel()
    assert not view._cancel.visible
    assert "Cancelled after 3 of 12 measurements" in view._stage.object
    job._process.wait(20)
    jobs.says = {"events": events}
    view._go_on.clicks += 1
    again = view.making.job
    assert again is not None
    assert again is not job
    again.wait(30)
    assert jobs.asked[1]["study"] == "out/my_project.db"
    assert opened == ["out/my_project.db"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def task(:\n", "my_broken.py, line 1"),
        ("import pockgraph as pg\n\ndef task():\n    return 1 / 0\n", "my_broken.py, line 4, in task"),
    ],
)
@pytest.mark.usefixtures("worker_finds_task")
def test_a_mistake_in_the_users_module_is_said_with_its_line(text: str, says: str, folder: Path) -> None:
    (folder / "my_broken.py").write_text(text)
    view = MakeStudy(NewStudy(AtOnce(), jobs=Jobs()), lambda path: None)
    view._task.value = "" if "(:" in text else "my_broken:task"
    view._reference.value = "my_broken:task"
    view._name.value = "b"
    view.start()
    job = view.making.job
    assert job is not None
    assert job.wait(120) == "failed"
    assert says in view._problem.object
    assert "Traceback" not in view._problem.object
    assert view._go_on.visible
    assert not (folder / "out/b.db").exists()


def test_the_list_names_each_study_and_links_those_that_can_be_opened(folder: Path, study_path: Path) -> None:
    shutil.copy(study_path, folder / "a & b.db")
    (folder / "gone.db").write_bytes(b"SQLite format 3\0")
    entries = study_entries([folder / "a & b.db", folder / "gone.db"])
    assert [e.note for e in entries] == ["measured", "cannot be read"]
    page = start(None, entries)
    shown = " ".join(str(getattr(o, "object", "")) for o in page.select())
    assert "a%20%26%20b.db" in shown
    assert shown.count("<a href=") == 1
    empty = start(None, [], MakeStudy(NewStudy(AtOnce(), jobs=Jobs()), lambda path: None))
    assert "Choose a task below" in " ".join(str(getattr(o, "object", "")) for o in empty.select())
