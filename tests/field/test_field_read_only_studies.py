"""Studies that cannot be written are read, and planned with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from study_files import SETTINGS, small_task, version_1, without_its_log
from typer.testing import CliRunner

import pockgraph as pg
from pockgraph.errors import StudyError
from pockui.cli import app
from pockui.training_study import study_of


def listing_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def write_protected(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only mount or for a user without the right; a superuser's tests cannot be refused."""
    real = os.access
    monkeypatch.setattr(os, "access", lambda p, mode, **how: not mode & os.W_OK and real(p, mode, **how))


def test_a_study_that_cannot_be_written_is_read_and_planned_with(
    study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_its_log(study_file)
    before = listing_of(study_file.parent)
    write_protected(monkeypatch)
    with pg.Study(study_file, small_task()) as study:
        assert study.search(pg.Budget()).tensors
        assert study.progress()[0] > 0
        for write in (lambda: study.analyze(**SETTINGS), lambda: study.remove_plan("head")):
            with pytest.raises(StudyError, match=r"can only be read.*Copy it"):
                write()
        assert listing_of(study_file.parent) == before, "reading left something behind"
    assert listing_of(study_file.parent) == before


def test_who_may_only_read_sees_what_another_writes(
    study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_its_log(study_file)
    with monkeypatch.context() as m:
        write_protected(m)
        reader = pg.Study(study_file)
        assert len(reader.plans()) == 2
    with pg.Study(study_file) as writer:
        writer.remove_plan("full")
        assert len(reader.plans()) == 1, "what is in the log only"
    assert len(reader.plans()) == 1
    reader.close()


def test_a_study_on_a_read_only_mount(study_file: Path, tmp_path: Path) -> None:
    without_its_log(study_file)
    mount = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount")
    read = f"{sys.executable} -m pockui.cli search {study_file} --peak-mb 1 --json"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mount} && {read}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["plan"]["ratios"]


def test_an_old_study_that_cannot_be_written_is_read_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = version_1(tmp_path / "old.db")
    before = listing_of(tmp_path)
    write_protected(monkeypatch)
    with pg.Study(path) as study:
        assert study.progress() == (7, 11)
        assert study.contribution.baseline.mean == 0.25
        assert list(study.plans()) == ["head"]
    assert listing_of(tmp_path) == before


def test_looking_at_an_old_study_leaves_it_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version_1(tmp_path / "old.db")
    monkeypatch.chdir(tmp_path)
    before = listing_of(tmp_path)
    for words in ("ls --json", "show old.db --json"):
        result = CliRunner().invoke(app, ["study", *words.split()])
        assert result.exit_code == 0, result.output
        assert '"schema": 1' in result.stdout
    assert listing_of(tmp_path) == before


def test_a_training_changes_no_study_but_its_own(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = version_1(tmp_path / "old.db")  # newer than the file that is copied
    before = other.read_bytes()
    monkeypatch.chdir(tmp_path)
    with pg.Study(study_file) as study:
        plan = study.plan("head")
    found = study_of(plan, "", None)
    assert found is not None
    found.close()
    assert found.path == study_file
    assert other.read_bytes() == before


def test_a_study_opened_to_be_read_is_not_changed_by_mistake(study_file: Path) -> None:
    with pg.Study(study_file, read_only=True) as study:
        assert study.search(pg.Budget()).tensors
        with pytest.raises(StudyError, match=r"opened to be read.*without read_only"):
            study.remove_plan("head")
    with pytest.raises(StudyError, match="There is no study"):
        pg.Study(study_file.with_name("new.db"), small_task(), read_only=True)
