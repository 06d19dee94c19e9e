"""Files that the export tab hands out, beside plans."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pockgraph.errors import ArtifactError, PockError
from pockgraph.runtime import Trainer
from pockgraph.study import Study
from pockgraph.study.exchange import import_study
from pockui.downloads import artifact_zip, runs_csv
from pockui.facts import read_facts
from pockui.jobs import Jobs
from pockui.state import State
from pockui.train_job import TrainSpec, train
from pockui.training import Training
from pockui.views.export import Export


def test_a_runs_artefact_and_the_runs_are_taken_away_and_used(study_path: Path, tmp_path: Path) -> None:
    study_file = Path(shutil.copy(study_path, tmp_path / "study.db"))
    state = State()
    state.show(read_facts(study_file))
    training = Training(state, Jobs(), tmp_path / "out")
    view = Export(state, training)
    assert view._artifact.disabled
    assert "Compile and train this plan" in view._run.object
    with pytest.raises(PockError, match="Compile and train"):
        view._artifact_file()

    spec = TrainSpec(
        reference="ui_task:task", plan=state.plan.to_json(), target="torch", out=str(tmp_path / "artifact"),
        steps=2, measure=False, study=str(study_file), run="one",
    )  # fmt: skip
    ignored: Any = lambda *_, **__: None  # noqa: E731
    train(spec, ignored)
    assert training.follow("one")
    assert not view._artifact.disabled
    assert view._artifact.filename == "blobs-torch.zip"
    with zipfile.ZipFile(view._artifact_file()) as file:
        file.extractall(tmp_path / "device")
    assert Trainer.load(tmp_path / "device/artifact").plan.tensors == state.plan.tensors

    table = tmp_path / "runs.csv"
    table.write_bytes(runs_csv(study_file).getvalue())
    other = Path(shutil.copy(study_path, tmp_path / "other.db"))
    assert import_study(other, table).runs == 1
    with Study(other) as study:
        assert [run.uid for run in study.runs()] == ["one"]

    state_file = tmp_path / "artifact/state.safetensors"
    state_file.write_bytes(state_file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="damaged"):
        artifact_zip(tmp_path / "artifact")
    with pytest.raises(ArtifactError):
        artifact_zip(tmp_path)
    assert isinstance(runs_csv(other), io.BytesIO)
