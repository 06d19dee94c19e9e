"""Measuring elsewhere: other processes and executors fill the same table, whatever happens to them."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from dask_cluster import dask_cluster
from shapes_task import OPTIMIZER, QUICK, QUICK_COUNT, make_shapes, make_task

from pockgraph.contribution import worker, workplace
from pockgraph.contribution.measuring import Cancelled
from pockgraph.errors import StudyError
from pockgraph.study import Study
from pockgraph.workers.cluster import cluster
from pockgraph.workers.local_processes import LocalProcesses, WorkerDied

REFERENCE = "shapes_task:make_task"


def unseeded():
    """Another network at each call."""
    return make_task(seed=int(torch.seed() % 2**31))


def other_data():
    task = make_task()
    return dataclasses.replace(task, train=task.train.shuffled(1).only(np.arange(90)))  # pyright: ignore


def wider():
    return make_task(classes=7)


@functools.cache
def referenced(reference: str):
    """The usual task, said to be made by this reference."""
    return dataclasses.replace(make_shapes(), reference=reference)


def table(study: Study) -> dict:
    return {
        (m.purpose, m.candidate, m.seed, m.lr): (m.status, m.metric, m.loss) for m in study.measurements()
    }


@pytest.fixture(scope="module")
def measured_here(tmp_path_factory) -> dict:
    with Study(tmp_path_factory.mktemp("here") / "shapes.db", make_shapes(), OPTIMIZER) as s:
        s.analyze(**QUICK, workers=1)
        return table(s)


@pytest.fixture
def elsewhere(tmp_path: Path, one_build):
    """A study whose task others can make."""
    with Study(tmp_path / "elsewhere.db", referenced(REFERENCE), OPTIMIZER) as s:
        yield s


def close_to(found: dict, expected: dict) -> bool:
    assert found.keys() == expected.keys()
    for key, (status, metric, loss) in expected.items():
        assert found[key] == (status, pytest.approx(metric), pytest.approx(loss, rel=1e-5))
    return True


def test_two_processes_of_which_one_is_killed_midway_measure_everything_once(
    elsewhere: Study, measured_here, monkeypatch
) -> None:
    started: list[int] = []

    class Watched(LocalProcesses):
        def _start(self):
            process = super()._start()
            started.append(process.pid)
            return process

    monkeypatch.setattr(workplace, "LocalProcesses", Watched)
    seen: list[int] = []

    def progress(p) -> None:
        if p.last is not None:
            seen.append(p.last.id)
            if len(seen) == QUICK_COUNT // 2:
                os.kill(started[0], signal.SIGKILL)

    elsewhere.analyze(**QUICK, workers=2, progress=progress)
    assert len(started) == 3  # two, and one for that which was killed
    assert len(seen) == len(set(seen)) == QUICK_COUNT
    assert close_to(table(elsewhere), measured_here)
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    times = [m.finished for m in elsewhere.measurements()]
    elsewhere.analyze(**QUICK, workers=2)  # nothing left to do: no process
    assert (len(started), [m.finished for m in elsewhere.measurements()]) == (3, times)


# In the fast suite an executor of threads fills the table, and `tests/workers` kills a cluster's worker.
@pytest.mark.slow
def test_a_cluster_of_which_a_worker_is_killed_midway_measures_everything_once(
    elsewhere: Study, measured_here
) -> None:
    pytest.importorskip("distributed", reason="distributed is not installed: pockui[cluster]")
    seen: list[int] = []
    with dask_cluster(2) as address, cluster(address) as executor:
        pids = list(executor._client.run(os.getpid).values())

        def progress(p) -> None:
            if p.last is not None:
                seen.append(p.last.id)
                if len(seen) == QUICK_COUNT // 2:
                    os.kill(pids[0], signal.SIGKILL)

        elsewhere.analyze(**QUICK, executor=executor, progress=progress)
    assert len(set(pids)) == 2
    assert len(seen) == len(set(seen)) == QUICK_COUNT
    assert close_to(table(elsewhere), measured_here)


def test_an_executor_that_is_given_measures_the_same_and_stays_open(elsewhere: Study, measured_here) -> None:
    with ThreadPoolExecutor(2) as threads:
        elsewhere.analyze(**QUICK, executor=threads, workers=2)
        assert threads.submit(abs, -1).result() == 1
    assert close_to(table(elsewhere), measured_here)


def test_cancel_is_asked_while_others_measure_and_what_is_done_is_kept(
    elsewhere: Study, measured_here
) -> None:
    done: list[int] = []
    with ThreadPoolExecutor(2) as threads:
        with pytest.raises(Cancelled, match=rf"after \d+ of {QUICK_COUNT} measurements"):
            elsewhere.analyze(
                **QUICK, executor=threads, progress=lambda p: done.append(p.done), cancel=lambda: done[-1] > 5
            )
        assert 5 < elsewhere.progress()[0] < QUICK_COUNT
        elsewhere.analyze(**QUICK, executor=threads)
    assert close_to(table(elsewhere), measured_here)


def test_whoever_lost_the_lease_writes_nothing_that_others_measured(elsewhere: Study) -> None:
    def usurp(p) -> None:
        if p.last is not None:
            with elsewhere._store.transaction() as write:
                write.execute("UPDATE analyses SET token = token + 1000")

    with ThreadPoolExecutor(2) as threads, pytest.raises(StudyError, match="another one took over"):
        elsewhere.analyze(**QUICK, executor=threads, progress=usurp)
    assert elsewhere.progress()[0] == 1


class Deadly(ThreadPoolExecutor):
    """A candidate whose process always dies."""

    def submit(self, fn, /, *args, **kwargs):
        if args[0].candidate.fqn == "stem.weight":
            future: Future = Future()
            future.set_exception(WorkerDied("A worker process was ended by SIGKILL."))
            return future
        return super().submit(fn, *args, **kwargs)


def test_a_candidate_that_ends_every_process_fails_and_is_tried_again(
    elsewhere: Study, measured_here
) -> None:
    with (
        Deadly(2) as executor,
        pytest.raises(
            StudyError,
            match=rf"2 of {QUICK_COUNT} measurements failed \(stem\.weight.*3 worker processes.*SIGK",
        ),
    ):
        elsewhere.analyze(**QUICK, executor=executor)
    assert elsewhere.progress() == (QUICK_COUNT - 2, QUICK_COUNT)
    elsewhere.analyze(**QUICK, workers=1)
    assert close_to(table(elsewhere), measured_here)


# ---------------------------------------------------------------- tasks that others cannot make


def refusal(path: Path, reference: str) -> str:
    """What an analysis says that others cannot help with."""
    with (
        Study(path, referenced(reference), OPTIMIZER) as study,
        ThreadPoolExecutor(1) as threads,
        pytest.raises(StudyError) as raised,
    ):
        study.analyze(**QUICK, executor=threads)
    with Study(path) as reader:
        assert reader.progress() == (0, QUICK_COUNT)
    return str(raised.value)


def test_a_task_that_others_make_otherwise_is_refused(tmp_path: Path, one_build) -> None:
    for name, what in (("unseeded", "its initial values"), ("other_data", "its training batches")):
        assert f"{name} anew, and it differs in {what}. What" in refusal(
            tmp_path / f"{name}.db", f"test_workers:{name}"
        )
    assert "differs in its graph" in refusal(tmp_path / "wider.db", "test_workers:wider")


def test_a_task_that_others_cannot_import_is_refused(tmp_path: Path, one_build) -> None:
    told = refusal(tmp_path / "a.db", "no_such_project:task")
    assert f"Worker process {os.getpid()} on" in told
    assert "cannot make the task no_such_project:task. There is no module 'no_such_project' in" in told


def test_a_worker_of_another_version_is_refused(tmp_path: Path, one_build, monkeypatch) -> None:
    monkeypatch.setattr(workplace, "versions", lambda: ("0.0.1", "2.0.0"))
    told = refusal(tmp_path / "a.db", REFERENCE)
    assert "the analysis runs with pockui 0.0.1 and torch 2.0.0. Install the same" in told


def test_what_the_tasks_own_code_raises_is_told_with_its_line(tmp_path: Path, one_build, monkeypatch) -> None:
    def broken(*args):
        raise ZeroDivisionError("own mistake")

    monkeypatch.setattr(worker.Measurer, "take", broken)
    told = refusal(tmp_path / "a.db", REFERENCE)
    assert "own mistake" in told
    assert "test_workers.py, line" in told


def test_a_task_without_a_reference_is_measured_here_and_that_is_said(study: Study, measured_here) -> None:
    with pytest.warns(UserWarning, match=r"'shapes' was made in this process.*reference='my_project:task'"):
        study.analyze(**QUICK, workers=2)
    assert table(study) == measured_here
