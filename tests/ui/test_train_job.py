"""What the dashboard's worker does with a plan, in this process."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pockgraph.errors import NonFiniteLoss
from pockgraph.study import Study
from pockui import training as training_module
from pockui.facts import read_facts
from pockui.info.kept_run import ended_text, kept_run
from pockui.jobs import Jobs
from pockui.kept import read_kept
from pockui.state import State
from pockui.train_job import TrainSpec, train
from pockui.training import Training
from pockui.views.train import Train
from pockui.worker import Stop


class Events(list[dict[str, Any]]):
    """Collects what a worker reports."""

    def __call__(self, kind: str, **data: Any) -> None:
        self.append({"kind": kind, **data})

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in self if e["kind"] == kind]


@pytest.fixture
def study_file(study_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(study_path, tmp_path / "study.db"))


@pytest.fixture
def spec(state: State, study_file: Path, tmp_path: Path) -> TrainSpec:
    return TrainSpec(
        reference="ui_task:task", plan=state.plan.to_json(), target="torch", out=str(tmp_path / "artifact"),
        steps=5, lr=0.05, seed=3, measure=False, study=str(study_file),
    )  # fmt: skip


def test_a_run_lands_in_its_study(spec: TrainSpec, study_file: Path) -> None:
    events: Any = Events()
    train(replace(spec, measure=True), events)
    with Study(study_file) as study:
        (run,) = study.runs()
    assert (run.origin, run.status, run.steps, run.lr, run.seed) == ("dashboard", "done", 5, 0.05, 3)
    assert run.losses == tuple(loss for _, loss in events.of("result")[0]["losses"])
    before, after = (e["value"] for e in events.of("metric"))
    assert (run.baseline, run.metric) == (before, after)
    assert run.validation_metric is not None
    assert run.validation_baseline is not None
    (measured,) = events.of("measured")
    assert run.measured["step_ms"] == measured["step_ms"]
    assert run.measured_peak_bytes == measured["whole_peak_bytes"]
    assert run.data["train"].samples == 160


def test_a_run_that_diverges_is_kept_as_failed(spec: TrainSpec, study_file: Path) -> None:
    with pytest.raises(NonFiniteLoss):
        train(replace(spec, lr=1e30), Events())  # pyright: ignore
    with Study(study_file) as study:
        (run,) = study.runs()
    assert run.status == "failed"
    assert run.error


class AsksToEnd(Events):
    """Asks a run to end when it reports its first step."""

    def __init__(self, stop: Stop) -> None:
        super().__init__()
        self._stop = stop

    def __call__(self, kind: str, **data: Any) -> None:
        super().__call__(kind, **data)
        if kind == "loss":
            self._stop._asked.set()


def test_a_cancelled_run_is_kept_shown_again_and_resumed_to_the_same_numbers(
    spec: TrainSpec, study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: Any = Events()
    train(replace(spec, out=str(tmp_path / "whole"), run="whole"), whole)
    stop = Stop()
    told: Any = AsksToEnd(stop)
    train(replace(spec, run="first"), told, stop)
    assert not told.of("result")
    (stopped,) = told.of("stopped")
    assert stopped["steps"] == 1

    run = read_kept(study_file).run("first")
    assert run is not None
    assert (run.status, run.steps, run.planned_steps, run.metric) == ("cancelled", 1, 5, None)
    assert (run.artifact, run.checkpoint) == ("artifact", "artifact.safetensors"), (
        "told from the study's folder"
    )
    shown = kept_run(run, study_file.parent)
    assert ended_text(shown.status, shown.events, 5, None) == "Cancelled after step 1 of 5."

    # Another server, later: no job of its own has that id.
    monkeypatch.setattr(training_module, "why_not_trainable", lambda *_: "")
    monkeypatch.setattr(training_module, "named_reference", lambda _: "ui_task:task")
    state = State()
    state.show(read_facts(study_file))
    training = Training(state, Jobs(), tmp_path / "out")
    view = Train(state, training)
    assert training.follow("first")
    assert training.job_id == "first"
    assert "Cancelled after step 1 of 5" in view._stage.object
    assert "→" not in view._result.object
    assert view._loss.figure["data"][0]["y"] == [run.losses[0]]
    assert view._resume.visible
    assert [*view._choice.options.values()] == ["", "first", "whole"], "newest first, and none replaced"
    reloaded = Train(state, training)
    assert reloaded._stage.object == view._stage.object
    assert reloaded._loss.visible
    view._choice.value = "whole"
    assert "Done" in view._stage.object
    assert not view._resume.visible
    assert not training.follow("no such run")
    assert training.job_id == "whole"

    resumed: Any = Events()
    train(replace(spec, run="second", resume=shown.last("stopped")["checkpoint"]), resumed)  # pyright: ignore
    (result,) = resumed.of("result")
    assert stopped["losses"] + result["losses"] == whole.of("result")[0]["losses"]
    second = read_kept(study_file).run("second")
    assert second is not None
    assert (second.status, second.began_at, second.steps) == ("done", 1, 4)
    _, after = (e["value"] for e in resumed.of("metric"))
    assert after == whole.of("metric")[1]["value"]


@pytest.mark.parametrize("kind", ["none", "gone", "another task's", "no study"])
def test_a_study_that_cannot_keep_it_stops_no_run(kind: str, spec: TrainSpec, study_file: Path) -> None:
    path = {"none": "", "gone": str(study_file) + "-gone"}.get(kind, str(study_file))
    if kind == "no study":
        study_file.write_text("notes")
    if kind == "another task's":
        with Study(study_file) as study, study._store.transaction() as write:
            write.execute("UPDATE facts SET value = '\"other\"' WHERE key = 'name'")
    events: Any = Events()
    train(replace(spec, study=path), events)
    assert events.of("result")[0]["steps"] == 5
    if kind == "another task's":
        with Study(study_file) as study:
            assert study.runs() == []
