"""Processes of this machine as an executor, of which one that dies takes no other's job along.

`ProcessPoolExecutor` gives up every job that is out when one of its processes dies, and cannot say whose it
was. It also runs the user's script again in each process, and leaves them behind when this one is killed.
Here each is a plain process of Python that reads jobs from a pipe (`worker_process.py`), and ends when the
pipe does. Jobs and results are pickled, between processes of one user only.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import suppress
from typing import Any, TypeVar

from ..files import ScratchFolder
from .worker_process import read, write

T = TypeVar("T")

# Modules that this process can import, that one can, too.
PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv.pop())
from pockgraph.workers.worker_process import main
main()
"""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerDied(BrokenExecutor):
    """The process that had this job ended; the executor goes on with a new one."""


class LocalProcesses(Executor):
    """So many processes, each started when there is something for it.

    Args:
        workers: processes.
        threads: of each, for libraries that read it from the environment.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self.workers, self.threads = workers, threads
        self._jobs: queue.SimpleQueue[tuple[Future[Any], bytes] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._running: set[subprocess.Popen[bytes]] = set()
        # What a process that is killed leaves behind goes with this folder.
        self._folder = ScratchFolder("workers")
        self._environment = {
            **os.environ,
            "TMPDIR": str(self._folder.path),
            **dict.fromkeys(THREADS, str(threads)),
        }
        self._threads = [
            threading.Thread(target=self._serve, name=f"pockui-worker-{i}", daemon=True)
            for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def pids(self) -> list[int]:
        """Of the processes that run."""
        with self._lock:
            return [p.pid for p in self._running]

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        job = pickle.dumps((fn, args, kwargs))
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._jobs.put((future, job))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes when all is done.

        Args:
            cancel_futures: end them now; what they were doing fails with `WorkerDied`.
        """
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in self._threads:
                    self._jobs.put(None)
            if cancel_futures:
                left = []
                with suppress(queue.Empty):
                    while True:
                        left.append(self._jobs.get_nowait())
                for item in left:
                    if item is None:
                        self._jobs.put(None)
                    else:
                        item[0].cancel()
                for process in self._running:
                    process.kill()
        if wait:
            for thread in self._threads:
                thread.join()
            self._folder.close()

    def _serve(self) -> None:
        """Hand jobs to one process, one after the other, and replace it when it dies."""
        process: subprocess.Popen[bytes] | None = None
        while (item := self._jobs.get()) is not None:
            future, job = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if process is None:
                    process = self._start()
                assert process.stdin is not None
                assert process.stdout is not None
                write(process.stdin, job)
                answer = read(process.stdout)
            except OSError:
                answer = None
            if answer is None:
                how = self._end(process) if process is not None else "could not be started"
                process = None
                future.set_exception(WorkerDied(f"A worker process {how}."))
                continue
            try:
                succeeded, value = pickle.loads(answer)
            except Exception as e:  # a class that is not the same here
                succeeded, value = False, e
            if succeeded:
                future.set_result(value)
            else:
                future.set_exception(value)
        if process is not None:
            self._end(process)

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise OSError("closed meanwhile")
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, json.dumps(sys.path)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._environment,
                start_new_session=True,  # Ctrl-C in a terminal is for this process
            )  # fmt: skip
            self._running.add(process)
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> str:
        """Close its pipes, wait for it, and say how it ended."""
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(OSError):  # what could not be written any more
                pipe.close()
        status = process.wait()
        with self._lock:
            self._running.discard(process)
        if status >= 0:
            return f"ended by itself with status {status}"
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        hint = ", as the system does when memory is short" if name == "SIGKILL" else ""
        return f"was ended by {name}{hint}"
