"""A study: the right task, the same after any interruption, readable by many and without torch."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from shapes_task import OPTIMIZER, QUICK, QUICK_COUNT, make_shapes, make_task, stop_after

from pockgraph.contribution import measuring
from pockgraph.contribution.analysis import Cancelled
from pockgraph.errors import NonFiniteLoss, PlanError, PockError, StudyError
from pockgraph.optimizer import SGD
from pockgraph.plan import Plan
from pockgraph.store.schema import MIGRATIONS
from pockgraph.study import Run, Study, TargetParity

HERE = Path(__file__).parent


def table(study: Study) -> dict:
    """Measurement -> its result; the same numbers whatever interrupted the analysis."""
    return {
        (m.purpose, m.candidate, m.seed, m.lr): (m.status, m.metric, m.loss) for m in study.measurements()
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("whole") / "shapes.db"
    with Study(path, make_shapes(), OPTIMIZER) as s:
        s.analyze(**QUICK)
        return table(s)


# ---------------------------------------------------------------- identity


def test_a_new_study_knows_its_task(study: Study) -> None:
    assert (study.name, study.reference) == ("shapes", "")
    assert study.fingerprint == study.graph.fingerprint
    assert study.facts["optimizer"] == {**OPTIMIZER.to_dict()}
    assert study.facts["batch"]["x"] == {"shape": [8, 1, 8, 8], "dtype": "float32"}
    assert "torch" in study.facts["versions"]
    assert study.progress() == (0, 0)
    assert study.measurements() == []
    with pytest.raises(StudyError, match="nothing was measured"):
        _ = study.contribution


def test_it_opens_again_with_its_task_without_building(study: Study, task, monkeypatch) -> None:
    study.close()
    monkeypatch.setattr("pockgraph.train_graph.builder.build", None)
    with Study(study.path, task) as again:
        assert again.fingerprint == study.fingerprint


def test_a_study_of_another_task_is_refused_with_the_differences(study: Study) -> None:
    with pytest.raises(StudyError, match=r"task 'other' instead of 'shapes'.*belongs|belongs.*task 'other'"):
        Study(study.path, make_task("other"))
    with pytest.raises(StudyError, match=r"'head.weight' is \[7, 8\] instead of \[4, 8\]"):
        Study(study.path, make_task(classes=7))
    with pytest.raises(StudyError, match=r"optimizer's 'lr' is 0.5 instead of 0.1"):
        Study(study.path, make_shapes(), SGD(lr=0.5, momentum=0.9))
    wider = make_task()
    wider.train.arrays["x"] = wider.train.arrays["x"].byte()  # pyright: ignore
    with pytest.raises(StudyError, match="batch entry 'x'"):
        Study(study.path, wider)


def test_without_its_task_it_reads_and_says_what_needs_the_task(study: Study) -> None:
    with Study(study.path) as reader:
        assert reader.name == "shapes"
        for needs in (lambda: reader.graph, lambda: reader.analyze(), lambda: reader.profile):
            with pytest.raises(StudyError, match="opened without its task 'shapes'"):
                needs()


def test_a_missing_study_and_an_empty_file_need_a_task(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="There is no study"):
        Study(tmp_path / "none.db")
    (tmp_path / "empty.db").touch()
    with pytest.raises(StudyError, match="is no study"):
        Study(tmp_path / "empty.db")


def test_a_file_that_is_no_study_is_refused_with_a_task_too(tmp_path: Path, task) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("keep me")
    with pytest.raises(StudyError, match="no SQLite database"):
        Study(path, task)
    assert path.read_text() == "keep me"


# ---------------------------------------------------------------- interruptions


def test_an_analysis_measures_each_thing_once(study: Study, uninterrupted) -> None:
    c = study.analyze(**QUICK)
    assert study.progress() == (QUICK_COUNT, QUICK_COUNT)
    assert table(study) == uninterrupted
    assert c.baseline.seeds == 2
    assert set(c.weights) == {"stem.weight", "blocks.0.0.weight", "blocks.1.0.weight"}
    assert set(c.weights["blocks.0.0.weight"]) == {1.0, 0.5}
    assert set(c.weights["stem.weight"]) == {1.0}  # one input channel has no half
    assert set(c.biases) == {1, 2, 3}
    times = [m.finished for m in study.measurements()]
    study.analyze(**QUICK)
    assert [m.finished for m in study.measurements()] == times


@pytest.mark.parametrize(
    ("after", "error"),
    [(2, RuntimeError()), (4, KeyboardInterrupt()), (5, RuntimeError()), (QUICK_COUNT, KeyboardInterrupt())],
)
def test_it_goes_on_after_an_exception(study: Study, uninterrupted, after: int, error) -> None:
    with pytest.raises(type(error)):
        study.analyze(**QUICK, progress=stop_after(after, error))
    assert study.progress() == (after, QUICK_COUNT)
    first = {m.id: m.finished for m in study.measurements() if m.status == "done"}
    study.close()
    with Study(study.path, make_shapes()) as again:
        again.analyze(**QUICK)
        assert table(again) == uninterrupted
        assert first.items() <= {m.id: m.finished for m in again.measurements()}.items()


def test_an_exception_inside_a_measurement_discards_only_that(
    study: Study, uninterrupted, monkeypatch
) -> None:
    real, calls = measuring.finetune, []

    def failing(*args):
        calls.append(args)
        if len(calls) == 6:
            raise RuntimeError("out of luck")
        return real(*args)

    monkeypatch.setattr(measuring, "finetune", failing)
    with pytest.raises(RuntimeError, match="out of luck"):
        study.analyze(**QUICK)
    assert study.progress() == (5, QUICK_COUNT)
    study.analyze(**QUICK)
    assert len(calls) == QUICK_COUNT + 1
    assert table(study) == uninterrupted


def test_cancel_stops_within_a_second_and_keeps_what_is_done(study: Study, uninterrupted) -> None:
    asked: list[float] = []

    def cancel() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 40

    with pytest.raises(Cancelled, match=rf"after \d+ of {QUICK_COUNT} measurements"):
        study.analyze(**QUICK, cancel=cancel)
    assert time.monotonic() - asked[-1] < 1
    assert 0 < study.progress()[0] < QUICK_COUNT
    study.analyze(**QUICK, cancel=lambda: False)
    assert table(study) == uninterrupted


ANALYZE = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from shapes_task import OPTIMIZER, QUICK, make_task
from pockgraph.study import Study
study = Study(sys.argv[1], make_task(), OPTIMIZER)
study.analyze(**QUICK, progress=lambda p: p.last is not None and print(p.last.id, flush=True))
print("end", flush=True)
"""


@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_killed_again_and_again_it_ends_with_the_same_table(study: Study, uninterrupted, kills: int) -> None:
    """SIGKILL while it measures, the first of several while it starts; nothing is lost, or done twice."""
    study.close()
    reported: list[int] = []
    if kills > 1:
        starting = subprocess.Popen([sys.executable, "-c", ANALYZE, str(study.path)], stdout=subprocess.PIPE)
        time.sleep(random.Random(0).uniform(1, 3))
        starting.kill()
        reported += whole_numbers(starting.communicate()[0].decode())
    for round_ in range(max(1, kills - 1)):
        process = subprocess.Popen(
            [sys.executable, "-c", ANALYZE, str(study.path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(4 + round_):
            reported += whole_numbers(process.stdout.readline())
        time.sleep(0.01 * round_)
        process.send_signal(signal.SIGKILL)
        reported += whole_numbers(process.communicate()[0])
        with Study(study.path) as reader:
            done = {m.id for m in reader.measurements() if m.status == "done"}
            assert set(reported) <= done
            assert len(done) <= len(reported) + round_ + 2  # a kill between saving and reporting
    assert len(set(reported)) == len(reported)
    with Study(study.path, make_shapes()) as again:
        again.analyze(**QUICK)
        assert table(again) == uninterrupted


def whole_numbers(printed: str) -> list[int]:
    """The ids on complete lines: a run that nobody killed in time ends with another word."""
    return [int(x) for x in printed.split("\n")[:-1] if x.isdigit()]


# ---------------------------------------------------------------- several at once


def test_two_readers_see_the_table_grow(study: Study) -> None:
    errors: list[BaseException] = []
    seen: list[list[int]] = [[], []]
    stop = threading.Event()

    def read(counts: list[int]) -> None:
        try:
            with Study(study.path) as reader:
                while not stop.is_set():
                    counts.append(reader.progress()[0])
                    if any(m.candidate.kind == "head" and m.purpose == "contribution" and m.metric is not None
                           for m in reader.measurements()):  # fmt: skip
                        assert reader.contribution.baseline.mean >= 0
        except BaseException as e:
            errors.append(e)

    readers = [threading.Thread(target=read, args=(c,)) for c in seen]
    for r in readers:
        r.start()
    study.analyze(**QUICK)
    time.sleep(0.05)
    stop.set()
    for r in readers:
        r.join()
    assert not errors
    for counts in seen:
        assert counts == sorted(counts)
        assert counts[-1] == QUICK_COUNT


def test_what_another_process_measured_shows_without_reopening(study: Study) -> None:
    with pytest.raises(RuntimeError):
        study.analyze(**QUICK, progress=stop_after(QUICK_COUNT - 2, RuntimeError()))
    with Study(study.path) as reader:
        before = reader.contribution
        assert reader.contribution is before  # read once
        study.analyze(**QUICK)
        assert reader.contribution is not before
        assert reader.contribution == study.contribution


def test_only_one_process_analyses(study: Study) -> None:
    study.analyze(**{**QUICK, "seeds": (0,)})

    def hold(holder: str, beat: float) -> None:
        with study._store.transaction() as write:
            write.execute("UPDATE analyses SET holder = ?, beat = ?", (holder, beat))

    host = os.uname().nodename
    hold(f"{host}:{os.getppid()}:abc", time.time())
    with pytest.raises(StudyError, match="being analysed by another process"):
        study.analyze(**QUICK)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for holder, beat in (
        (f"{host}:{gone.pid}:abc", time.time()),  # dead
        (f"{host}:{os.getpid()}:abc", time.time()),  # an earlier process with this one's number
        ("elsewhere:1:abc", time.time() - 1000),  # silent for too long
    ):
        hold(holder, beat)
        study.analyze(**QUICK)


# ---------------------------------------------------------------- several analyses


def test_more_seeds_and_ratios_add_to_what_is_there(study: Study) -> None:
    study.analyze(**{**QUICK, "seeds": (0,), "ratios": (1.0,)})
    first = {m.id for m in study.measurements() if m.status == "done"}
    c = study.analyze(**QUICK)
    assert first < {m.id for m in study.measurements()}
    assert c.weights["blocks.0.0.weight"][1.0].seeds == 2


def test_what_is_no_longer_wanted_is_no_longer_planned(study: Study) -> None:
    with pytest.raises(RuntimeError):
        study.analyze(**QUICK, progress=stop_after(8, RuntimeError()))
    narrow = {**QUICK, "seeds": (0,), "ratios": (1.0,), "tensors": "blocks.1*", "bias_counts": ()}
    study.analyze(**narrow)
    done, planned = study.progress()
    assert done == planned < QUICK_COUNT


def test_other_settings_make_another_table(study: Study) -> None:
    only = {**QUICK, "seeds": (0,), "ratios": (1.0,), "bias_counts": ()}
    a = study.analyze(**only)
    b = study.analyze(**{**only, "steps": 2})
    assert {m.steps for m in study.measurements()} == {2}
    assert study.contribution == b
    study.analyze(**only)
    assert study.contribution == a


# ---------------------------------------------------------------- measurements that go wrong


def spoil(monkeypatch, fqn: str, error: PockError) -> None:
    """Let the measurements of one weight raise."""
    real = measuring.finetune

    def spoilt(tuner, *args):
        if tuner.plan.tensors.keys() == {fqn, "head.weight", "head.bias"}:
            raise error
        return real(tuner, *args)

    monkeypatch.setattr(measuring, "finetune", spoilt)


def test_a_diverged_candidate_is_recorded_and_left_out(study: Study, monkeypatch) -> None:
    spoil(monkeypatch, "stem.weight", NonFiniteLoss("The loss became nan in step 2."))
    c = study.analyze(**QUICK)
    assert "stem.weight" not in c.weights
    assert [d.label for d in c.diverged] == ["stem.weight"]
    bad = [m for m in study.measurements() if m.status == "diverged"]
    assert [(m.candidate.fqn, m.metric, m.error) for m in bad] == [
        ("stem.weight", None, "The loss became nan in step 2.")
    ] * 2
    assert study.progress() == (QUICK_COUNT, QUICK_COUNT)


def test_a_failed_candidate_is_reported_at_the_end_and_tried_again(
    study: Study, uninterrupted, monkeypatch
) -> None:
    with monkeypatch.context() as m:
        spoil(m, "stem.weight", PlanError("no such thing"))
        with pytest.raises(
            StudyError, match=rf"2 of {QUICK_COUNT} measurements failed.*stem\.weight.*no such thing"
        ):
            study.analyze(**QUICK)
    assert study.progress() == (QUICK_COUNT - 2, QUICK_COUNT)
    study.analyze(**QUICK)
    assert table(study) == uninterrupted


@pytest.mark.parametrize("error", [None, NonFiniteLoss("The loss became nan."), PlanError("no room")])
def test_the_rate_suits_many_tensors_too_and_what_they_reached_at_it_counts(
    study: Study, monkeypatch, error: PockError | None
) -> None:
    """At 0.1 few tensors do better than at 0.02, and all together do worse, or cannot be trained."""
    real = measuring.finetune

    def tuned(tuner, fresh, seed, lr, *args):
        together = len(tuner.plan.tensors) > 5
        if together and lr == 0.1 and error is not None:
            raise error
        reached = real(tuner, fresh, seed, lr, *args)
        metric = {True: {0.02: 0.625, 0.1: 0.125}, False: {0.02: 0.5, 0.1: 0.625}}[together][lr]
        return dataclasses.replace(reached, metric=metric)

    monkeypatch.setattr(measuring, "finetune", tuned)
    study.analyze(**{**QUICK, "seeds": (0,), "ratios": (1.0,)})
    assert {m.lr for m in study.measurements() if m.purpose == "contribution"} == {0.02}
    assert not any("+" in fqn for fqn in study.contribution.weights)
    (all_together,) = study.forecaster.trained
    assert (all_together.gain, all_together.trainings, all_together.same_head) == (0.125, 2, 0.5)
    assert len(all_together.ratios) == 8


def test_training_that_always_diverges_says_so(study: Study) -> None:
    with pytest.raises(StudyError, match=r"diverged at every learning rate tried \(1e\+30, 1e\+35\)"):
        study.analyze(**{**QUICK, "lr": (1e30, 1e35)})
    with pytest.raises(StudyError, match=r"head alone diverged at lr 1e\+38"):
        study.analyze(**{**QUICK, "lr": 1e38})


# ---------------------------------------------------------------- plans, runs, parity


def test_plans_are_kept_by_name(study: Study) -> None:
    head, full = Plan.head(study.graph), Plan.full(study.graph)
    study.save_plan("a", head)
    study.save_plan("b", full)
    study.save_plan("a", full)
    assert study.plans() == {"a": full, "b": full}
    assert study.plan("a") == full
    with pytest.raises(StudyError, match=r"no plan 'aa'\. Did you mean 'a'"):
        study.plan("aa")
    study.remove_plan("a")
    assert list(study.plans()) == ["b"]
    with pytest.raises(PlanError, match="another model"):
        study.save_plan("c", head.model_copy(update={"model": {"w": (1,)}, "tensors": {}}))


def test_runs_are_kept_and_updated(study: Study) -> None:
    plan = Plan.head(study.graph)
    run = study.add_run(Run(plan, name="first", status="running", target="torch", losses=(1.0,)))
    other = study.add_run(Run(plan, metric=0.5, step_ms=3.0, measured_peak_bytes=10))
    done = dataclasses.replace(run, status="done", losses=(1.0, math.pi), metric=0.75)
    study.update_run(done)
    assert study.runs() == [done, other]
    with pytest.raises(StudyError, match="no run 99"):
        study.update_run(dataclasses.replace(run, id=99))


def test_parity_records_are_kept(study: Study) -> None:
    parity = TargetParity("openvino", "head", True, {"loss": 1e-7})
    study.add_parity(parity)
    assert study.parities() == [parity]


# ---------------------------------------------------------------- earlier releases


def test_a_study_of_an_earlier_schema_goes_on_with_all_that_it_holds(older: Path, one_build) -> None:
    with Study(older, make_shapes()) as study:
        assert study.progress() == (7, 11)
        first = {m.id: m for m in study.measurements() if m.status == "done"}
        run = study.runs()[0]
        assert (run.name, run.losses, run.origin, run.version) == ("first", (1.0, 0.5), "python", "")
        study.update_run(dataclasses.replace(run, losses=(1.0, 0.5, 0.25)))
        assert study.runs()[0].losses == (1.0, 0.5, 0.25)
        assert study.runs()[0].uid == run.uid == "v2-1-1.000000"
        assert list(study.plans()) == ["head"]
        assert [p.errors for p in study.parities()] == [{"loss": 1e-7}]
        study.analyze(**{**QUICK, "seeds": (0,), "ratios": (1.0,)})
        assert study.progress() == (11, 11)
        assert first.items() <= {m.id: m for m in study.measurements()}.items()
        assert study._store.read("PRAGMA foreign_key_check") == []
    with Study(older) as again:
        assert again._store.read("PRAGMA user_version")[0][0] == len(MIGRATIONS)


def test_the_tables_of_a_migrated_study_are_those_of_a_new_one(older: Path, study: Study) -> None:
    def tables(path: Path) -> dict[str, list]:
        with Study(path) as s:
            names = [r[0] for r in s._store.read("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {n: [tuple(r) for r in s._store.read(f"PRAGMA table_info({n})")] for n in sorted(names)}

    assert tables(older) == tables(study.path)


MIGRATE = """
import sys
from pockgraph.store import store
real = store.statements
def waiting(script):
    for statement in real(script):
        yield statement
        print("executed", flush=True)
        sys.stdin.readline()
store.statements = waiting
store.Store(sys.argv[1])
print("end", flush=True)
"""


@pytest.mark.parametrize("after", [1, 4, 99])
def test_a_kill_in_the_middle_of_a_migration_damages_nothing(older: Path, after: int) -> None:
    def content() -> tuple:
        with contextlib.closing(sqlite3.connect(older)) as c:
            rows = {t: c.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("runs", "measurements")}
            return c.execute("PRAGMA user_version").fetchone()[0], rows

    before = content()
    process = subprocess.Popen(
        [sys.executable, "-c", MIGRATE, str(older)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for executed in range(1, after + 1):
        said = process.stdout.readline()
        if said != "executed\n" or executed == after:
            break
        process.stdin.write("go on\n")
        process.stdin.flush()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    version, rows = content()
    assert rows == before[1]
    assert version == (before[0] if said == "executed\n" else len(MIGRATIONS))
    with Study(older) as study:
        assert study.progress() == (7, 11)
        assert study.runs()[0].losses == (1.0, 0.5)


# ---------------------------------------------------------------- without torch

PLANNER = """
import sys
sys.modules["torch"] = None
from pockgraph.study import Run, Study
from pockgraph.plan import Budget
study = Study(sys.argv[1])
plan = study.search(Budget(peak_bytes=10**9))
assert study.frontier(3)
study.save_plan("found", plan)
study.add_run(Run(study.plan("found")))
assert study.runs()[0].plan == plan
print(study.contribution.baseline.mean, study.profile.task, study)
"""


def test_a_finished_study_plans_without_torch(study: Study) -> None:
    c = study.analyze(**QUICK)
    assert study.profile is study.profile  # parsed once
    done = subprocess.run(
        [sys.executable, "-c", PLANNER, str(study.path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{c.baseline.mean} shapes Study(")
    assert "found" in study.plans()
