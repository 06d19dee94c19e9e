"""Studies as people keep them: several processes share one, and its file goes away meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from study_files import HERE, SETTINGS, at_measurement, change, small_task, table
from typer.testing import CliRunner
from users import batches, mlp, summed, task

import pockgraph as pg
from pockgraph.errors import StudyError
from pockgraph.store.lease import Owner
from pockgraph.study import Run
from pockui.cli import app

# ---------------------------------------------------------------- two processes, one study


def taken_over(path: Path) -> Callable[[], None]:
    """What another container's analysis does when this one was silent for a minute."""
    away = replace(Owner.here(), place="another boot", host="elsewhere")

    def take() -> None:
        holder = json.dumps(asdict(away))
        change(path, "INSERT INTO leases (holder, taken) VALUES ('elsewhere', 0)")
        change(path, "UPDATE analyses SET holder = ?, token = (SELECT max(token) FROM leases)", holder)

    return take


def test_an_analysis_that_was_taken_for_dead_writes_nothing_more_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with pg.Study(path, small_task()) as study:
        with pytest.raises(StudyError, match=r"another one took over.*on elsewhere goes on with it"):
            study.analyze(**SETTINGS, progress=at_measurement(5, taken_over(path)))
        assert study.progress()[0] == 5


def test_the_one_that_took_over_keeps_the_study_when_the_first_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with pg.Study(path, small_task()) as study:
        with pytest.raises(StudyError, match="took over"):
            study.analyze(**SETTINGS, progress=at_measurement(2, taken_over(path)))
        holder = study._store.read("SELECT holder FROM analyses")[0][0]
        assert Owner.of(holder).host == "elsewhere", "ending must not take the other's lease away"


def hold(path: Path, owner: Owner | str, beat: float) -> None:
    text = owner if isinstance(owner, str) else json.dumps(asdict(owner))
    change(path, "UPDATE analyses SET holder = ?, beat = ?", text, beat)


def test_a_study_that_another_machine_is_measuring_is_left_alone_until_it_is_silent(study_file: Path) -> None:
    away = Owner("elsewhere", "another boot", 1, "5")
    with pg.Study(study_file, small_task()) as study:
        hold(study_file, away, time.time())
        with pytest.raises(StudyError, match=r"being analysed by another process \(process 1 on elsewhere"):
            study.analyze(**SETTINGS)
        hold(study_file, away, time.time() + 3600)  # its clock was set back since
        study.analyze(**SETTINGS)


def test_a_process_with_the_number_of_a_dead_one_is_not_taken_for_it(study_file: Path) -> None:
    parent = replace(Owner.here(), pid=os.getppid(), started="1")  # lives, and started at another time
    with pg.Study(study_file, small_task()) as study:
        hold(study_file, parent, time.time())
        study.analyze(**SETTINGS)


ANALYZE = f"""
import sys, time
sys.path[:0] = {[str(HERE), str(HERE.parent)]!r}
import pockgraph as pg
from study_files import SETTINGS, small_task
def show(p):
    if p.last is not None:
        print(p.last.candidate.label, flush=True)
        time.sleep(float(sys.argv[2]))
with pg.Study(sys.argv[1], small_task()) as study:
    study.analyze(**SETTINGS, progress=show)
"""


def analysing(path: Path, pause_s: float = 0.0, *before: str) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-c", ANALYZE, str(path), str(pause_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_stopped_analysis_is_alive_and_goes_on_where_it_was(measured: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    other = analysing(path, 0.01)
    assert other.stdout is not None
    other.stdout.readline()
    other.send_signal(signal.SIGSTOP)
    change(path, "UPDATE analyses SET beat = ?", time.time() - 1000)  # silent for much longer than allowed
    with pg.Study(path, small_task()) as study, pytest.raises(StudyError, match="being analysed by another"):
        study.analyze(**SETTINGS)
    other.send_signal(signal.SIGCONT)
    assert other.wait(60) == 0
    with pg.Study(path) as study, pg.Study(measured) as whole:
        assert table(study) == table(whole)


@pytest.mark.slow
def test_analyses_in_two_containers_never_mix(measured: Path, tmp_path: Path) -> None:
    """The first is stopped for so long that the other, which cannot see it, takes over."""
    apart = ("unshare", "--pid", "--fork", "--mount-proc")
    if (
        not shutil.which("unshare")
        or subprocess.run([*apart, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("this system gives no process namespace")
    path = tmp_path / "a.db"
    first = analysing(path, 0.05)
    assert first.stdout is not None
    first.stdout.readline()
    first.send_signal(signal.SIGSTOP)
    refused = analysing(path, 0.0, *apart)
    assert "being analysed by another process" in refused.communicate(timeout=60)[1]
    change(path, "UPDATE analyses SET beat = ?", time.time() - 1000)
    second = analysing(path, 0.0, *apart)
    said = second.communicate(timeout=60)[1]
    assert second.returncode == 0, said
    first.send_signal(signal.SIGCONT)
    assert "another one took over" in first.communicate(timeout=60)[1]
    with pg.Study(path) as study, pg.Study(measured) as whole:
        assert table(study) == table(whole)


# ---------------------------------------------------------------- deleted under a running analysis


def test_a_study_file_deleted_during_an_analysis_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with pg.Study(path, small_task()) as study, pytest.raises(StudyError, match="deleted, moved or replaced"):
        study.analyze(**SETTINGS, progress=at_measurement(3, path.unlink))


def test_a_study_file_replaced_during_an_analysis_is_not_written_to(measured: Path, tmp_path: Path) -> None:
    path, other = tmp_path / "a.db", Path(shutil.copy(measured, tmp_path / "other.db"))
    before = other.read_bytes()
    with pg.Study(path, small_task()) as study, pytest.raises(StudyError, match="deleted, moved or replaced"):
        study.analyze(**SETTINGS, progress=at_measurement(3, lambda: os.replace(other, path)))
    assert path.read_bytes() == before


def forget_everything(path: Path) -> None:
    change(path, "DELETE FROM measurements")
    change(path, "DELETE FROM analyses")


def test_rows_deleted_during_an_analysis_end_it_and_no_result_moves_to_another_tensor(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with pg.Study(path, small_task()) as study:
        with pytest.raises(StudyError, match=r"measurement of .* was deleted from"):
            study.analyze(
                **SETTINGS,
                progress=at_measurement(
                    5, lambda: change(path, "DELETE FROM measurements WHERE status = 'planned'")
                ),
            )
        assert study.progress() == (5, 5)
        with pytest.raises(StudyError, match=r"The analysis that was being measured was deleted"):
            study.analyze(**SETTINGS, progress=at_measurement(2, lambda: forget_everything(path)))
        study.analyze(**SETTINGS)


def test_the_number_of_a_deleted_row_is_not_given_again(study_file: Path) -> None:
    with pg.Study(study_file, small_task()) as study:
        used = max(m.id for m in study.measurements())
        first = study.add_run(Run(study.plan("head")))
        change(study_file, "DELETE FROM measurements")
        change(study_file, "DELETE FROM runs")
        study.analyze(**SETTINGS)
        assert min(m.id for m in study.measurements()) > used
        assert (study.add_run(Run(study.plan("head"))).id or 0) > (first.id or 0)


# ---------------------------------------------------------------- figures that are not finite


def test_a_metric_that_is_nan_is_told_apart_from_a_training_that_diverged(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    torch.manual_seed(0)
    spoilt = task(mlp(), batches(8, 12), metric=lambda model, batch: summed(model, batch) * torch.nan)
    with pg.Study(path, spoilt) as study:
        with pytest.raises(StudyError, match=r"The metric became nan after 2 steps at lr 0\.01\. .*mend the"):
            study.analyze(**SETTINGS)
        assert not study.has_contribution
        with pytest.raises(StudyError, match="nothing was measured to its end"):
            study.search(pg.Budget(peak_bytes=10**9))
    shown = CliRunner().invoke(app, ["study", "show", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "field" in shown.stdout
