"""Studies as people keep them: several processes, old files, damaged files, files that cannot be written."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner
from users import batches, mlp, task

import pockgraph as pg
from pockgraph.errors import StudyError, TaskError
from pockgraph.profile.profiler import profile_of
from pockgraph.store.lease import Owner
from pockgraph.store.store import APPLICATION_ID
from pockgraph.study import Run, TargetParity
from pockgraph.study import study as study_module
from pockui import project
from pockui.cli import app
from pockui.info.names import file_name
from pockui.info.studies import find_studies
from pockui.state import State, read_facts
from pockui.train_job import checkpoint_of
from pockui.views.train import Train

HERE = Path(__file__).parent
SETTINGS: dict[str, Any] = {"steps": 2, "ratios": (1.0, 0.5), "lr": (0.01, 0.05), "target": "torch"}


def small_task() -> pg.Task:
    torch.manual_seed(0)
    return task(mlp(), batches(8, 12))


def table(study: pg.Study) -> dict[Any, Any]:
    return {
        (m.purpose, m.candidate, m.seed, m.lr): (m.status, m.metric, m.loss) for m in study.measurements()
    }


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was analysed to its end, with its profile and a plan."""
    path = tmp_path_factory.mktemp("studies") / "whole.db"
    with pg.Study(path, small_task()) as study:
        study.analyze(**SETTINGS)
        study.save_plan("head", pg.Plan.head(study.graph))
        study.save_plan("full", pg.Plan.full(study.graph))
        _ = study.profile
    return path


@pytest.fixture
def study_file(measured: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copy(measured, tmp_path / "study.db")


def change(path: Path, sql: str, *values: Any) -> None:
    """As another program, or a damaged disk, would."""
    with closing(sqlite3.connect(path)) as c, c:
        c.execute(sql, values)


def at_measurement(number: int, do: Callable[[], Any]) -> Callable[[Any], None]:
    """A progress callback that acts when so many measurements are finished."""
    finished = iter(range(1, 10**6))
    return lambda p: p.last is not None and next(finished) == number and do()


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
from test_field_studies import SETTINGS, small_task
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


# ---------------------------------------------------------------- files that cannot be written


def without_its_log(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as c:
        c.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert not Path(f"{path}-wal").exists()
    return path


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


# ---------------------------------------------------------------- other files, and other releases


def version_1(path: Path) -> Path:
    """A study that an earlier release made and was stopped at."""
    text = (HERE.parent / "study" / "data" / "version1.sql").read_text(encoding="utf-8")
    with closing(sqlite3.connect(path)) as c:
        c.executescript(text)
        c.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        c.execute("PRAGMA user_version = 1")
        c.execute("PRAGMA journal_mode = WAL")
    return path


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
    assert [p.resolve() for p in find_studies()] == ([path] if case == "another program's" else [])


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


# ---------------------------------------------------------------- names, and code that a file names


NAMES = [
    "../x", "/etc/x", "..", ".", "", "a/b", "a\\b", "x" * 300, "Größe", "模型", "nul", "COM1.v2", "-rf",
    ".hidden", "a\0b", "a\nb", "a b", "net.v1.", "C:x", "~", "\ud800",
]  # fmt: skip


def test_whatever_a_task_is_called_its_files_stay_in_their_folder(tmp_path: Path) -> None:
    seen = set()
    for name in NAMES:
        found = file_name(name)
        assert 0 < len(found) < 100
        assert (tmp_path / found).parent == tmp_path == (tmp_path / f"{found}.safetensors").resolve().parent
        (tmp_path / found).mkdir()
        seen.add(found.lower())
    assert len(seen) == len(NAMES), "two names share one file"
    assert file_name("net.v1.0") == "net.v1.0"


def test_versions_in_names_do_not_share_a_checkpoint() -> None:
    assert checkpoint_of("out/net.v1.0") != checkpoint_of("out/net.v1.1")
    assert checkpoint_of("out/net.v1.0").name == "net.v1.0.safetensors"


def seen_by_the_dashboard(path: Path, monkeypatch: pytest.MonkeyPatch, *named: str) -> Train:
    """The train view of a server that was started with `--task` of each name."""
    monkeypatch.setattr(project, "_NAMED", [])
    monkeypatch.setattr(study_module, "OPENED_WITH", set())
    for name in named:
        project.name_task(name)
    state = State()
    state.show(read_facts(path))
    return Train(state)


@pytest.fixture
def malicious(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study from somebody else, which says that its task is in a module that lies here."""
    (tmp_path / "intruder.py").write_text("from pathlib import Path\nPath('was_here').touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    change(study_file, "UPDATE facts SET value = '\"intruder:task\"' WHERE key = 'reference'")
    change(study_file, "UPDATE facts SET value = '\"../../<b>x\"' WHERE key = 'name'")
    return study_file


def test_a_study_file_alone_starts_no_code(malicious: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = seen_by_the_dashboard(malicious, monkeypatch)
    assert view._start.disabled
    assert "a file&#x27;s word is not enough" in view._why.object
    assert f"pockui serve {malicious} --task intruder:task" in view._why.object
    with pytest.raises(ValueError, match="word is not enough"):
        view.start()
    assert not Path("was_here").exists()
    assert view._folder().parent == Path("out")


def test_what_the_user_named_is_what_is_run_and_the_page_says_so(
    malicious: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = seen_by_the_dashboard(malicious, monkeypatch, "users:task")
    assert not view._start.disabled
    assert "Runs <code>users:task</code>" in view._runs.object
    started: list[Any] = []
    monkeypatch.setattr(view._jobs, "start", lambda *given: started.append(given))
    with contextlib.suppress(AttributeError):  # there is no job to follow
        view.start()
    assert started[0][2]["reference"] == "users:task"
    assert not Path("was_here").exists()


def test_the_demo_and_a_task_of_this_process_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "_NAMED", [])
    assert project.named_reference(project.DEMOS["vision"]) == project.DEMOS["vision"]
    assert project.named_reference("pockui.demo.experiment:anything") == ""
    assert project.named_reference("os:abort") == ""
    monkeypatch.setenv(project.ENVIRONMENT, "mine:task")
    assert project.named_reference("os:abort") == "mine:task"
    monkeypatch.delenv(project.ENVIRONMENT)
    project.name_task("os:abort")
    assert project.named_reference("os:abort") == "os:abort"


@pytest.mark.parametrize("reference", ["", ":", "a:", ":b", "a b:c", "a.:b", "../a:b", "a:b.c", "a:b()"])
def test_what_names_no_task_is_refused_before_anything_is_imported(reference: str) -> None:
    for refused in (project.load_task, project.name_task):
        with pytest.raises(TaskError, match="names no task"):
            refused(reference)
    assert CliRunner().invoke(app, ["serve", "--task", reference or ":", "none.db"]).exit_code == 2
