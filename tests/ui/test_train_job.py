"""What the dashboard's worker does with a plan, in this process."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pockgraph.errors import NonFiniteLoss
from pockgraph.study import Study
from pockui.state import State
from pockui.train_job import TrainSpec, train


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
