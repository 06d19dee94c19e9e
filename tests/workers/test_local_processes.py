"""Processes as an executor: results, exceptions, and processes that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import small_jobs

from pockgraph.errors import StudyError
from pockgraph.workers import handing_out
from pockgraph.workers.in_this_process import InThisProcess
from pockgraph.workers.local_processes import LocalProcesses, WorkerDied

HERE = Path(__file__).parent


@pytest.fixture
def processes() -> Iterator[LocalProcesses]:
    with LocalProcesses(2, threads=1) as found:
        yield found


def handed_out(executor, run, jobs, workers: int = 2, tick=lambda: None) -> dict:
    return dict(handing_out.results(executor, run, jobs, lambda: workers, tick))


def ended(pid: int) -> bool:
    """Within five seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


def test_results_and_exceptions_come_back(processes) -> None:
    assert list(processes.map(small_jobs.square, range(5))) == [0, 1, 4, 9, 16]
    assert len(set(processes.map(small_jobs.pid, range(5)))) <= 2
    assert os.getpid() not in processes.map(small_jobs.pid, range(2))
    with pytest.raises(ValueError, match="no 7") as raised:
        processes.submit(small_jobs.fail, 7).result()
    assert "in fail" in raised.value.__notes__[0]  # where, over there
    with pytest.raises(RuntimeError, match="Odd: 1 and 2"):
        processes.submit(small_jobs.fail, 0).result()
    with pytest.raises(RuntimeError, match="SystemExit: 4"):
        processes.submit(small_jobs.leave, 4).result()
    assert processes.submit(small_jobs.noisy, 5).result() == 5


def test_a_process_that_dies_takes_no_other_along(processes) -> None:
    left, died = processes.submit(small_jobs.sleep, 0.3), processes.submit(small_jobs.die_at_three, 3)
    with pytest.raises(WorkerDied, match="ended by SIGKILL"):
        died.result()
    assert left.result() is None
    with pytest.raises(WorkerDied, match="ended by itself with status 4"):
        processes.submit(small_jobs.end, 4).result()
    assert processes.submit(small_jobs.square, 3).result() == 9


def test_what_a_dead_process_had_is_handed_out_again(processes, tmp_path: Path) -> None:
    jobs = [(str(tmp_path / "mark"), i) for i in range(6)]
    found = handed_out(processes, small_jobs.die_once, jobs)
    assert found == {job: job[1] for job in jobs}


def test_a_job_that_always_ends_its_process_is_given_up_and_the_others_are_not(processes) -> None:
    found = handed_out(processes, small_jobs.die_at_three, [0, 1, 2, 3, 4, 5])
    assert isinstance(died := found.pop(3), WorkerDied)
    assert "3 worker processes ended while they did this" in str(died)
    assert found == {i: i for i in (0, 1, 2, 4, 5)}


def test_processes_that_can_do_nothing_end_it(processes) -> None:
    with pytest.raises(StudyError, match=r"before they have done anything.*status 4.*workers=1"):
        handed_out(processes, small_jobs.end, [4])


def test_shutdown_with_cancel_ends_what_runs_at_once() -> None:
    executor = LocalProcesses(1, threads=1)
    pid = executor.submit(small_jobs.pid, 0).result()
    running, waiting = (executor.submit(small_jobs.sleep, 60) for _ in range(2))
    while not running.running():
        time.sleep(0.01)
    start = time.monotonic()
    executor.shutdown(cancel_futures=True)
    assert time.monotonic() - start < 10
    assert isinstance(running.exception(), WorkerDied)
    assert waiting.cancelled()
    assert ended(pid)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(small_jobs.pid, 0)


SCRIPT = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import small_jobs
from pockgraph.workers.local_processes import LocalProcesses
print("script", flush=True)
executor = LocalProcesses(2, threads=1)
print(*{{executor.submit(small_jobs.pid, 0).result()}}, flush=True)
executor.submit(small_jobs.sleep, 60).result()
"""


def test_they_run_no_script_again_and_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    """The script has no `if __name__ == "__main__"`."""
    (tmp_path / "script.py").write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "script\n"
    pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert ended(pid)
    assert parent.stdout.read() == ""


def test_never_more_jobs_out_than_workers() -> None:
    taken, done = [], []

    def jobs() -> Iterator[int]:
        for i in range(6):
            taken.append(i)
            yield i

    with ThreadPoolExecutor(4) as threads:
        for job, result in handing_out.results(threads, small_jobs.square, jobs(), lambda: 2, lambda: None):
            done.append(job)
            assert result == job * job
            assert len(taken) - len(done) < 2 + 1
    assert sorted(done) == taken == list(range(6))


def test_what_tick_raises_cancels_the_rest() -> None:
    def tick() -> None:
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as threads:
        blocked = threads.submit(small_jobs.sleep, 0.5)
        with pytest.raises(KeyboardInterrupt):
            handed_out(threads, small_jobs.square, [1, 2], tick=tick)
        assert not blocked.done()


def test_a_broken_executor_of_the_users_is_told() -> None:
    class Broken(InThisProcess):
        def submit(self, fn, /, *args, **kwargs):
            def broken():
                raise BrokenProcessPool("a process ended abruptly")

            return super().submit(broken)

    with pytest.raises(StudyError, match=r"is broken \(a process ended abruptly\).*call again"):
        handed_out(Broken(), small_jobs.square, [1])
