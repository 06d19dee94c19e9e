"""Runs: kept while they are trained, whatever ends them, and told apart by their data."""

from __future__ import annotations

import dataclasses
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shapes_task import BATCH, make_shapes, make_task

from pockgraph import __version__
from pockgraph.errors import NonFiniteLoss
from pockgraph.plan import Plan
from pockgraph.store import store as store_module
from pockgraph.study import Run, Study
from pockgraph.study.data_splits import split_of, splits_of
from pockgraph.study.recorder import recorded
from pockgraph.study.records import DataSplit
from pockgraph.task import Batches

FIGURES = {"metric": 0.5, "validation_metric": 0.75, "head_metric": 0.5, "predicted_gain": 0.2}


def test_a_run_says_how_where_and_on_what_it_was_trained(study: Study) -> None:
    run = Run(Plan.head(study.graph), origin="cli", lr=0.1, fresh=True, data=splits_of(make_shapes()))
    with recorded(study, run) as kept:
        assert study.runs()[0].status == "running"
        for loss in (2.0, math.pi, 1e-30):
            kept.step(loss, 3.0)
        kept.note(**FIGURES, measured={"step_ms": 2.5, "whole_peak_bytes": None})
    (found,) = study.runs()
    assert found == kept.run
    assert (found.status, found.steps, found.losses) == ("done", 3, (2.0, math.pi, 1e-30))
    assert (found.step_ms, found.version) == (3.0, __version__)
    assert found.machine["cores"]
    assert found.gain == 0.25
    assert found.epochs == 3 / (96 // BATCH)
    assert found.optimizer["momentum"] == 0.9
    assert found.data["validation"].samples == 32
    assert len({s.fingerprint for s in found.data.values()}) == 3
    assert len(found.uid) == 32


def test_losses_are_a_compact_blob(study: Study) -> None:
    kept = study.add_run(Run(Plan.head(study.graph), losses=tuple(math.sin(i) for i in range(1000))))
    row = study._store.read("SELECT json, losses FROM runs")[0]
    assert "losses" not in row["json"]
    assert len(row["losses"]) == 8 * 1000
    assert study.runs() == [kept]


def test_diverged_and_interrupted_runs_keep_their_losses(study: Study) -> None:
    def train(error: BaseException) -> None:
        with recorded(study, Run(Plan.head(study.graph))) as kept:
            kept.step(1.0)
            kept.step(math.nan)
            raise error

    for error in (NonFiniteLoss("The loss became nan in step 2."), ValueError("no"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            train(error)
    runs = study.runs()
    assert [r.status for r in runs] == ["failed", "failed", "cancelled"]
    assert [r.error for r in runs] == ["The loss became nan in step 2.", "ValueError: no", ""]
    assert all(r.losses[0] == 1.0 and math.isnan(r.losses[1]) for r in runs)


TRAINING = """
import sys, time
from pockgraph.study import Run, Study, recorder
recorder.SAVE_S = 0.0
study = Study(sys.argv[1])
with recorder.recorded(study, Run(study.plan("head"))) as kept:
    for step in range(10**6):
        kept.step(float(step))
        print(step, flush=True)
"""


def test_a_run_that_is_killed_counts_as_cancelled_and_keeps_what_was_trained(study: Study) -> None:
    study.save_plan("head", Plan.head(study.graph))
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(study.path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while process.stdout.readline() != "5\n":
        assert process.poll() is None
    assert study.runs()[0].status == "running"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (run,) = study.runs()
    assert (run.status, run.error) == ("cancelled", "Its process ended before the run did.")
    assert run.losses[:6] == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)


def test_a_study_that_cannot_be_written_is_told_once_and_ends_no_training(study: Study) -> None:
    told: list[str] = []
    plan = Plan.head(study.graph)
    with recorded(study, Run(plan), told.append) as kept:
        kept.step(1.0)
        study.path.unlink()
        kept.note()
        kept.step(0.5)
        kept.note(metric=0.5)
    assert len(told) == 1
    assert "This run is not kept" in told[0]
    assert kept.run.losses == (1.0, 0.5)
    with recorded(None, Run(plan)) as unkept:
        unkept.step(1.0)
    assert unkept.run.status == "done"
    assert unkept.run.id is None


# ---------------------------------------------------------------- which data


def test_other_data_is_other_data() -> None:
    task, again = make_shapes(), make_task()
    found = splits_of(task)
    assert splits_of(again) == found
    assert split_of(task.validation, 2).batches == 2
    changed = {k: v.clone() for k, v in again.eval.arrays.items()}  # pyright: ignore
    changed["y"][0] += 1
    assert split_of(Batches(changed, BATCH)).fingerprint != found["test"].fingerprint
    assert "validation" not in splits_of(dataclasses.replace(task, validation=None))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64])
def test_any_kind_of_data_has_an_identity(dtype: torch.dtype) -> None:
    batch = {"x": torch.ones(4, 3).to(dtype), "scale": torch.tensor(2.0)}
    assert split_of([batch, batch]).batches == 2
    assert split_of([batch]).fingerprint == split_of([dict(batch)]).fingerprint != ""
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(batch["x"]), batch_size=2)
    assert split_of(loader).batches == 2


def test_data_that_changes_with_every_look_or_has_no_end_says_so() -> None:
    class Noise:
        def __len__(self) -> int:
            return 3

        def __iter__(self):
            yield from ({"x": torch.randn(2)} for _ in range(3))

    assert split_of(Noise()).fingerprint == ""
    assert split_of(Noise()).batches == 3

    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            raise AssertionError("nobody may read it for this")

    assert split_of(Endless()) == DataSplit(None, None, "")


# ---------------------------------------------------------------- a copy that can only be read


def test_runs_of_an_older_file_that_cannot_be_written(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = older.read_bytes()
    monkeypatch.setattr(store_module.os, "access", lambda *_: False)
    with Study(older) as study:
        run = study.runs()[0]
        assert (run.name, run.losses, run.uid) == ("first", (1.0, 0.5), "v2-1-1.000000")
    assert older.read_bytes() == before
