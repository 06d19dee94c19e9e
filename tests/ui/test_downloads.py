"""Files that the export tab hands out, beside plans."""

from __future__ import annotations

import copy
import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from own_loop import run_in_own_loop
from safetensors.torch import load
from ui_task import task

from pockgraph.errors import ArtifactError, PockError
from pockgraph.runtime import Trainer
from pockgraph.study import Study
from pockgraph.study.exchange import import_study
from pockui.downloads import artifact_zip, runs_csv
from pockui.facts import read_facts
from pockui.jobs import Jobs
from pockui.merge_job import MergeSpec, merge
from pockui.state import State
from pockui.train_job import TrainSpec, checkpoint_of, train
from pockui.training import Training
from pockui.views.run_files import RunFiles
from pockui.worker import Stop


def _metric(made: Any) -> float:
    """What eager PyTorch says of the task's model."""
    with torch.no_grad():
        return float(torch.cat([made.metric(made.model, batch) for batch in made.eval]).mean())


@pytest.mark.usefixtures("worker_finds_task")
def test_a_runs_files_and_the_runs_are_taken_away_and_used(
    study_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_file = Path(shutil.copy(study_path, tmp_path / "study.db"))
    state = State()
    state.show(read_facts(study_file))
    training = Training(state, Jobs(), tmp_path / "out")
    view = RunFiles(state, training, Jobs())
    assert view.artifact.disabled
    assert view.checkpoint.disabled
    assert view.merged.disabled
    with pytest.raises(PockError, match="Compile and train"):
        view.artifact_file()
    with pytest.raises(PockError, match="kept no weights"):
        view.checkpoint_file()
    with pytest.raises(PockError, match="kept no weights"):
        run_in_own_loop(view.merged_file())

    spec = TrainSpec(
        reference="ui_task:task", plan=state.plan.to_json(), target="torch", out=str(tmp_path / "artifact"),
        steps=2, measure=False, study=str(study_file), run="one",
    )  # fmt: skip
    ignored: Any = lambda *_, **__: None  # noqa: E731
    train(spec, ignored)
    assert training.follow("one")
    view.refresh()
    assert not view.artifact.disabled
    assert view.artifact.filename == "blobs-torch.zip"
    with zipfile.ZipFile(view.artifact_file()) as file:
        file.extractall(tmp_path / "device")
    device = Trainer.load(tmp_path / "device/artifact")
    assert device.plan.tensors == state.plan.tensors

    (tmp_path / "checkpoint").write_bytes(view.checkpoint_file().getvalue())
    device.load_checkpoint(tmp_path / "checkpoint")
    assert device.steps == 2
    monkeypatch.setattr(Training, "reference", "ui_task:task")
    view.refresh()
    assert view.merged.filename == "blobs-torch.model.safetensors"
    weights = load(run_in_own_loop(view.merged_file()).getvalue())
    net = task()
    before = copy.deepcopy(net.model.state_dict())
    net.model.load_state_dict(weights)
    assert device.evaluate(net.eval).metric == pytest.approx(_metric(net))
    moved = {name for name, value in weights.items() if not torch.equal(value, before[name])}
    assert moved == set(state.plan.tensors)

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


def test_a_model_that_is_not_the_one_that_was_trained_is_not_merged_into(
    study_path: Path, tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TrainSpec(
        reference="ui_task:task", plan=state.plan.to_json(), target="torch", out=str(tmp_path / "artifact"),
        steps=1, measure=False,
    )  # fmt: skip
    ignored: Any = lambda *_, **__: None  # noqa: E731
    train(spec, ignored)
    drawn = iter(range(1, 10))
    monkeypatch.setattr(
        "ui_task.torch.manual_seed", lambda _: torch.default_generator.manual_seed(next(drawn))
    )
    out = tmp_path / "model.safetensors"
    merging = MergeSpec("ui_task:task", spec.out, str(checkpoint_of(spec.out)), str(out))
    with pytest.raises(ArtifactError, match="makes another model now"):
        merge(merging, ignored, Stop())
    assert not out.exists()
