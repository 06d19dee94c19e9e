"""A plan is verified by a process of its own, and what it reached stands in every session's frontier."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("anywidget")

from pockgraph.errors import PockError
from pockgraph.study import Study
from pockui import project
from pockui.facts import read_facts
from pockui.frontier_plans import FrontierPlans
from pockui.info.format import MetricScale
from pockui.info.verification import ended_text, running_text, trained_text
from pockui.jobs import Jobs
from pockui.scheduling import AtOnce
from pockui.state import State
from pockui.verifying import Verifying
from pockui.views.frontier import Frontier
from pockui.watching import Followed, Watch
from pockui.widgets import FrontierLine
from pockui.widgets.verification import Verification


@pytest.fixture
def opened(study_path: Path, tmp_path: Path) -> Callable[[], State]:
    path = shutil.copy(study_path, tmp_path / "blobs.db")

    def session() -> State:
        state = State()
        state.show(read_facts(path))
        return state

    return session


@pytest.fixture
def jobs() -> Jobs:
    made = Jobs()
    yield made
    made.shutdown()


def _wait(until: Callable[[], object], seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.05)


def test_a_verified_plan_stands_in_every_session(
    opened: Callable[[], State], jobs: Jobs, worker_finds_task: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project, "_NAMED", ["ui_task:task"])
    one, other, watch = opened(), opened(), Watch()
    followed = [Followed(state, AtOnce()) for state in (one, other)]
    watch.look(followed)
    verifying = Verifying(one, jobs)
    view = Frontier(one, FrontierPlans(one), verifying)
    notebook, line = Verification(one, verifying), FrontierLine(other)
    notebook._start.click()
    assert verifying.running
    assert (notebook._start.disabled, notebook._cancel.layout.display) == (True, None)
    assert (view._verify.visible, view._cancel.visible) == (False, True)
    second = Verifying(other, jobs)
    assert second.job is verifying.job, "a session that is opened meanwhile follows it, too"
    with pytest.raises(PockError, match="is being verified"):
        second.start()
    _wait(lambda: not verifying.running)
    job = verifying.job
    assert (job.status, job.error) == ("done", "")
    kinds = {event["kind"] for event in job.events}
    assert kinds == {"stage", "progress", "verified"}
    watch._next_s.clear()
    watch.look(followed)
    for state in (one, other):
        (point,) = state.facts.measured("peak_bytes")
        assert point.y == pytest.approx(job.last("verified")["metric"])
    measured = next(t for t in view._chart.figure["data"] if t["name"] == "measured")
    assert measured["y"] == [pytest.approx(100 * point.y)]
    assert measured["error_y"]["arrayminus"][0] > 0
    assert "diamonds: plans as they were trained" in view._note.object
    _wait(lambda: view._verify.visible)
    assert "Measured" in view._progress.object
    assert "Measured" in notebook._note.value
    assert (notebook._start.disabled, notebook._cancel.layout.display) == (False, "none")
    (diamonds,) = (trace for trace in line.chart.figure["data"] if trace.get("name") == "measured")
    assert diamonds["y"] == [pytest.approx(100 * point.y)]
    assert "diamonds: plans as they were trained" in line._note.value
    assert "trained 2 times as the analysis trained" in Verifying(other, Jobs()).result, (
        "after a restart, too"
    )
    full = one.facts.profile.plan(one.facts.known_plans["Full"].choice)
    other.take(full)
    assert second.result == ""
    one.take(full)
    assert "Measured" not in view._progress.object + notebook._note.value, "it was another plan"
    one.undo()
    assert "Measured" in view._progress.object
    assert "Measured" in notebook._note.value
    with Study(one.facts.path, read_only=True) as study:
        runs = study.runs()
    assert [(run.origin, run.status) for run in runs] == [("verify", "done")] * 2


def test_a_task_that_nobody_named_is_not_run(
    opened: Callable[[], State], jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project, "_NAMED", [])
    monkeypatch.setattr("pockgraph.study.study.OPENED_WITH", set())
    state = opened()
    view = Frontier(state, None, Verifying(state, jobs))
    assert view._verify.disabled
    assert "start the dashboard with" in view._progress.object
    notebook = Verification(state, Verifying(state, jobs))
    assert notebook._start.disabled
    assert "study.verify(planner.plan)" in notebook._note.value
    notebook.start()
    assert 'role="alert"' in notebook._note.value


def test_what_is_said_meanwhile_and_afterwards() -> None:
    assert running_text([]) == "Starting …"
    assert running_text([{"kind": "stage", "text": "Loading the task"}]) == "Loading the task …"
    now = {"kind": "progress", "done": 30, "total": 120, "left_s": 62}
    assert running_text([now]) == "Training the plan: 25 %, about 1 min 2 s left"
    scale = MetricScale(0.5)
    found = {"kind": "verified", "metric": 0.9, "trainings": 2, "forecast": 0.88, "low": 0.8, "high": 0.95}
    assert "Measured 90.0 % in 2 trainings, inside the interval" in ended_text("done", found, scale)
    assert "in one training, outside" in ended_text("done", {**found, "metric": 0.7, "trainings": 1}, scale)
    assert ended_text("cancelled", None, scale).startswith("Cancelled.")
    assert ended_text("failed", None, scale) == ""
    assert trained_text([0.9], scale).endswith("trained once as the analysis trained: measured 90.0 %.")
    assert "2 times as the analysis trained: measured 85.0 % on average (80.0 to" in trained_text(
        [0.8, 0.9], scale
    )
