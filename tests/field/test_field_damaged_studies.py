"""Studies whose rows are damaged, files that are no study, and those of other releases."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from study_files import change, small_task, table, without_its_log
from typer.testing import CliRunner

import pockgraph as pg
from pockgraph.errors import StudyError
from pockgraph.profile.profiler import profile_of
from pockgraph.study import Run, TargetParity
from pockui.cli import app
from pockui.info.studies import find_studies

# ---------------------------------------------------------------- damaged rows


DAMAGED = {
    "a plan is no JSON": ("UPDATE plans SET json = '{' WHERE name = 'head'", "the plan 'head'"),
    "a plan of wrong types": (
        """UPDATE plans SET json = '{"schema": "pockui.plan/1", "task": 3}' WHERE name = 'head'""",
        "the plan 'head'",
    ),
    "a plan nested too deep": (
        "UPDATE plans SET json = replace(hex(zeroblob(50000)), '0', '[') WHERE name = 'head'",
        "the plan 'head'",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_plan_is_named_and_hides_no_other(case: str, study_file: Path) -> None:
    sql, words = DAMAGED[case]
    change(study_file, sql)
    with pg.Study(study_file) as study:
        with pytest.warns(UserWarning, match=words):
            assert list(study.plans()) == ["full"]
        with pytest.raises(StudyError, match=f"is damaged: {words} cannot be read"):
            study.plan("head")
        assert study.plan("full").tensors
        study.remove_plan("head")
        assert list(study.plans()) == ["full"]


@pytest.mark.parametrize(
    "json_text",
    ["", "[]", "{}", '{"plan": {}, "losses": 3}', '{"plan": {}, "losses": [], "colour": 1}', "9" * 5000],
)
def test_a_damaged_run_or_parity_record_is_named_and_hides_no_other(json_text: str, study_file: Path) -> None:
    with pg.Study(study_file) as study:
        kept = [study.add_run(Run(study.plan("head"), name=name)) for name in ("a", "b", "c")]
        for target in ("onnx", "openvino"):
            study.add_parity(TargetParity(target, "head", True, {"loss": 0.0}))
        change(study_file, "UPDATE runs SET json = ? WHERE id = ?", json_text, kept[1].id)
        with pytest.warns(UserWarning, match=f"run {kept[1].id} cannot be read"):
            assert [run.name for run in study.runs()] == ["a", "c"]
        change(study_file, "UPDATE parities SET json = ? WHERE target = 'onnx'", json_text + "]")
        with pytest.warns(UserWarning, match="parity record 1 cannot be read"):
            assert [parity.target for parity in study.parities()] == ["openvino"]


def _changed(path: Path, change_it: Callable[[Any], None]) -> str:
    with pg.Study(path) as study:
        data = json.loads(study._store.document("profile") or "")
    change_it(data)
    return json.dumps(data)


PROFILES: dict[str, Callable[[Any], None]] = {
    "no rows": lambda d: d.pop("rows"),
    "an operand that is not there": lambda d: d["operators"][3].__setitem__(5, [10**6]),
    "a circle of operators": lambda d: d["operators"][3].__setitem__(6, [9]),
    "negative bytes": lambda d: d["operators"][3].__setitem__(2, -5),
    "a text for a number": lambda d: d["operators"][3].__setitem__(4, "many"),
    "a fraction for a number": lambda d: d.__setitem__("resident_bytes", 0.5),
    "not a number": lambda d: d.__setitem__("resident_bytes", float("nan")),
    "a root that is not there": lambda d: d["roots"].__setitem__(0, 10**9),
    "a channel that is not there": lambda d: d["channel_order"][0].__setitem__(0, 10**9),
    "a list too short": lambda d: d["moves"].pop(),
    "a preset of another model": lambda d: d["presets"].__setitem__("head", {"nothing": 1.0}),
    "a shape that is no shape": lambda d: d["rows"][0].__setitem__("shape", "12"),
    "a tensor that is there twice": lambda d: d["rows"][1].__setitem__("fqn", d["rows"][0]["fqn"]),
    "a serving set that is no number": lambda d: d["operators"][0].__setitem__(7, "zz"),
    "no object": lambda d: d.clear(),
}


@pytest.mark.parametrize("case", PROFILES)
def test_a_damaged_profile_is_named_and_the_gains_stay_readable(case: str, study_file: Path) -> None:
    change(study_file, "UPDATE documents SET json = ?", _changed(study_file, PROFILES[case]))
    with pg.Study(study_file, small_task()) as study:
        with pytest.raises(StudyError, match=r"is damaged: its profile cannot be read"):
            study.search(pg.Budget())
        assert study.contribution.weights
        assert len(study.plans()) == 2
        study.save_profile(profile_of(study.graph))
        assert study.search(pg.Budget()).tensors


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("UPDATE facts SET value = '{' WHERE key = 'model'", "the fact 'model' cannot be read"),
        ("DELETE FROM facts WHERE key = 'reference'", r"not complete \(reference\)"),
        ("UPDATE facts SET value = '{\"w\": 3}' WHERE key = 'model'", "not complete"),
        ("UPDATE facts SET value = '[1]' WHERE key = 'name'", r"not complete \(name\)"),
        ("DROP TABLE analyses", "is damaged: no such table: analyses"),
        ("UPDATE analyses SET head = '{}'", "the head or biases of analysis 1"),
    ],
)
def test_what_a_study_cannot_do_without_is_named(sql: str, words: str, study_file: Path) -> None:
    change(study_file, sql)
    with pytest.raises(StudyError, match=words):
        _ = pg.Study(study_file).contribution


# ---------------------------------------------------------------- other files, and other releases


def pipe(path: Path) -> None:
    os.mkfifo(path)


NO_STUDIES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a text": (lambda p: p.write_text("hello" * 100), "no SQLite database"),
    "an empty file": (lambda p: p.touch(), "no SQLite database"),
    "a folder": (lambda p: p.mkdir(), "a folder"),
    "a pipe": (pipe, "a device or pipe"),
    "a device": (lambda p: p.symlink_to("/dev/zero"), "a device or pipe"),
    "a link to itself": (lambda p: p.symlink_to(p.name), "No study can be at"),
    "another program's": (lambda p: change(p, "CREATE TABLE t (x)"), "another program's"),
}


@pytest.mark.parametrize("case", NO_STUDIES)
def test_what_is_no_study_is_refused_at_once_by_every_command(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"
    make, words = NO_STUDIES[case]
    make(path)
    monkeypatch.chdir(tmp_path)
    for arguments in (("search", "a.db", "--peak-mb", "1"), ("serve", "a.db"), ("study", "show", "a.db")):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2, result
        assert words in result.stderr
        assert "Traceback" not in result.stderr
    assert CliRunner().invoke(app, ["study", "ls"]).exit_code == 0
    assert find_studies() == []


@pytest.mark.parametrize("case", [c for c in NO_STUDIES if c != "an empty file"])
def test_what_is_no_study_is_refused_and_kept_when_it_is_to_be_made(case: str, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    make, words = NO_STUDIES[case]
    make(path)
    before = path.lstat()
    with pytest.raises(StudyError, match=words):
        pg.Study(path, small_task())
    assert (path.lstat().st_ino, path.lstat().st_size) == (before.st_ino, before.st_size)


@pytest.mark.parametrize("name", ["x" * 300 + ".db", "a\0b.db"])
def test_a_path_that_no_file_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="Choose another"):
        pg.Study(tmp_path / name, small_task())


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_study_that_was_cut_off_is_refused_and_left_as_it_is(kept: float, study_file: Path) -> None:
    without_its_log(study_file)
    content = study_file.read_bytes()
    study_file.write_bytes(content[: int(len(content) * kept)])
    before = study_file.read_bytes()
    with pytest.raises(StudyError, match="is damaged"):
        pg.Study(study_file)
    assert study_file.read_bytes() == before


def test_a_study_of_a_newer_release_is_refused(study_file: Path) -> None:
    change(study_file, "PRAGMA user_version = 99")
    with pytest.raises(StudyError, match="Upgrade PockUI"):
        pg.Study(study_file)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
def test_on_a_full_disk_nothing_that_was_measured_is_lost(study_file: Path) -> None:
    with pg.Study(study_file, small_task()) as study:
        before = table(study)
        study._store._connection.execute("PRAGMA max_page_count = 1")  # SQLite's own "disk is full"
        with pytest.raises(StudyError, match=r"full.*has room"):
            study.save_plan(
                "another", study.plan("full").model_copy(update={"provenance": {"a": "b" * 10**6}})
            )
    with pg.Study(study_file) as study:
        assert table(study) == before
        assert list(study.plans()) == ["head", "full"]
