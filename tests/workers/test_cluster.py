"""A Dask cluster as an executor: workers that die, and clusters that are not there."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from concurrent.futures import CancelledError
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import small_jobs
from dask_cluster import dask_cluster

from pockgraph.errors import StudyError
from pockgraph.workers import cluster as room
from pockgraph.workers import handing_out
from pockgraph.workers.cluster import cluster
from pockgraph.workers.in_this_process import InThisProcess
from pockgraph.workers.local_processes import WorkerDied

distributed = pytest.importorskip("distributed", reason="distributed is not installed: pockui[cluster]")


@pytest.fixture(scope="module")
def address():
    with dask_cluster() as found:
        yield found


def test_what_is_done_is_not_done_again_when_its_worker_dies(address: str, tmp_path: Path) -> None:
    """Dask would compute a result anew that its dead worker had, while anybody holds on to it."""
    jobs = [(str(tmp_path / "done"), i) for i in range(30)]
    found = {}
    with cluster(address) as executor:
        assert executor.workers == 2
        workers = list(executor._client.run(os.getpid).values())
        below = set(executor.map(small_jobs.pid, range(8)))
        assert not below & {os.getpid(), *workers}  # in a process under each worker
        for job, result in handing_out.results(
            executor, small_jobs.note, jobs, lambda: executor.workers, lambda: None
        ):
            found[job] = result
            if len(found) == 10:
                os.kill(workers[0], signal.SIGKILL)
    assert found == {job: job[1] for job in jobs}
    lines = [int(line) for line in (tmp_path / "done").read_text().split()]
    twice = [n for n in set(lines) if lines.count(n) > 1]
    assert set(lines) == set(range(30))
    assert len(twice) <= 1  # the line was written, the answer not


def test_nobody_else_is_listened_to(address: str) -> None:
    here, sockets = psutil.Process(), []
    for process in (here, *here.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # what another test started may end meanwhile
            sockets += process.net_connections("inet")
    listening = {c.laddr.ip for c in sockets if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


class Refusing(InThisProcess):
    """Every job ends so."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def submit(self, fn, /, *args, **kwargs):
        def end() -> None:
            raise self._error

        return super().submit(end)


def outcome(error: Exception) -> list:
    return list(handing_out.results(Refusing(error), small_jobs.square, [1], lambda: 1, lambda: None))


def test_a_job_that_ended_several_workers_is_given_up() -> None:
    """Dask itself hands it out again before it says this."""
    last = SimpleNamespace(address="tcp://127.0.0.1:1")
    [(job, died)] = outcome(distributed.scheduler.KilledWorker("job", last, 3))
    assert job == 1
    assert isinstance(died, WorkerDied)
    assert "Several workers of the cluster ended while they did this. Attempted to run task 'job'" in str(
        died
    )


def test_a_worker_without_our_package() -> None:
    missing = ModuleNotFoundError("No module named 'pockgraph.there'", name="pockgraph.there")
    with pytest.raises(StudyError, match=r"no module pockgraph\.there\. Install pockui there"):
        outcome(missing)


def test_a_scheduler_that_has_gone() -> None:
    with pytest.raises(StudyError, match=r"broken \(CancelledError\).*kept"):
        outcome(CancelledError())


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("tcp://127.0.0.1:9", "timed out|Timed out"),
        ("127.0.0.1", "Must include protocol"),
        ("http://127.0.0.1:80", "unknown address scheme"),
    ],
)
def test_a_scheduler_that_is_not_there(address: str, why: str, monkeypatch) -> None:
    monkeypatch.setattr(room, "CONNECT_S", 0.5)
    told = f"There is no Dask scheduler at '{address}' .*({why}).*dask scheduler"
    with pytest.raises(StudyError, match=told), cluster(address):
        pass


def test_a_cluster_without_workers(monkeypatch) -> None:
    monkeypatch.setattr(room, "FIRST_WORKER_S", 0.5)
    with (
        dask_cluster(0) as address,
        pytest.raises(StudyError, match=rf"has no worker.*dask worker {address} --nthreads 1"),
        cluster(address),
    ):
        pass


def test_a_cluster_that_lost_all_its_workers(monkeypatch) -> None:
    monkeypatch.setattr(handing_out, "ALONE_S", 0.2)
    monkeypatch.setattr(handing_out, "CHECK_S", 0.1)
    with dask_cluster(0) as address, distributed.Client(address, set_as_default=False) as client:
        executor = room.Cluster(client, address)
        with pytest.raises(StudyError, match="There has been no worker for"):
            list(
                handing_out.results(executor, small_jobs.square, [1], lambda: executor.workers, lambda: None)
            )


def test_without_the_package_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(StudyError, match=r"pip install 'pockui\[cluster\]'"), cluster("tcp://127.0.0.1:1"):
        pass
