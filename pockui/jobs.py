"""Work that takes a while, outside of any browser session.

Planning runs in threads, latest request first (`Latest`). Training runs in a process of its own
(`Jobs.start`). Cancelling it asks the process to end, and kills one that does not; nobody waits for that. A
job belongs to the registry and not to a session: a reloaded page finds it by its id.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Literal

from pockgraph.errors import PockError

Status = Literal["running", "done", "failed", "cancelled"]
Event = dict[str, Any]
KEPT_LINES = 40  # of a worker's stderr, to explain a crash
END_S = 10.0  # in which a cancelled worker may still write what it has
SHUTDOWN_S = 3.0  # the same where the server ends


class Job:
    """One process that reports events, JSON objects with a `kind`, one a line on its stdout.

    Attributes:
        id: finds the job again after a reload.
        title: for people. module: what the process runs.
        events: all so far, oldest first.
        status: "running" until the process ended.
        error: why it failed, for people; empty otherwise.
    """

    def __init__(self, title: str, module: str, spec: Mapping[str, Any], id: str = "") -> None:
        self.id = id or secrets.token_hex(4)
        self.title = title
        self.module = module
        self.spec = dict(spec)
        self.events: list[Event] = []
        self.status: Status = "running"
        self.error = ""
        self.started = time.monotonic()
        self.ended: float | None = None
        self._cancelled = False
        self._listeners: list[Callable[[], None]] = []
        self._stderr: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # its own process group: cancelling ends its children, too
        )
        assert self._process.stdin is not None
        # The pipe stays open: the worker takes its end for the end of this server, and stops.
        self._process.stdin.write(json.dumps(self.spec) + "\n")
        self._process.stdin.flush()
        self._errors = threading.Thread(target=self._read_errors, daemon=True)
        self._errors.start()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def seconds(self) -> float:
        """How long it has been running, or ran."""
        return (self.ended or time.monotonic()) - self.started

    def last(self, kind: str) -> Event | None:
        """The newest event of a kind."""
        return next((e for e in reversed(self.events) if e["kind"] == kind), None)

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` (in a thread of the job) after every event; returns what ends that."""
        self._listeners.append(changed)
        return lambda: self._listeners.remove(changed) if changed in self._listeners else None

    def cancel(self, wait_s: float = 0.0) -> None:
        """End the process; `status` becomes "cancelled" at once.

        Args:
            wait_s: how long the process may take to end by itself, after it was asked to by the end of its
                stdin; killed then. Nobody waits for it here, and its last events still arrive.
        """
        if self.status != "running":
            return
        self._cancelled = True
        if wait_s:
            assert self._process.stdin is not None
            with suppress(OSError):
                self._process.stdin.close()
            watch = threading.Timer(wait_s, self.kill)
            watch.daemon = True
            watch.start()
        else:
            self.kill()
        self._end("cancelled")

    def kill(self) -> None:
        """End the process if it still runs, and what it has started."""
        if self._process.poll() is None:
            self._kill_group()

    def _kill_group(self) -> None:
        """End the worker and what it has started."""
        if os.name == "posix":
            with suppress(ProcessLookupError, PermissionError):  # all of it may have ended by itself
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()

    def wait(self, timeout: float | None = None) -> Status:
        """Wait for the process to end."""
        self._process.wait(timeout)
        limit = time.monotonic() + 5
        while self.status == "running" and time.monotonic() < limit:
            time.sleep(0.01)
        return self.status

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            self.events.append(event)
            if event["kind"] == "error":
                self.error = event["message"]
            self._notify()
        code = self._process.wait()
        self._kill_group()  # a worker that crashed leaves nothing behind
        self._errors.join(timeout=2)
        if self._cancelled:
            return
        if code != 0 and not self.error:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            self.error = "\n".join([f"The worker process {how}.", *self._stderr[-6:]])
        self._end("failed" if self.error else "done")

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._stderr.append(line.rstrip())
            del self._stderr[:-KEPT_LINES]

    def _end(self, status: Status) -> None:
        if self.ended is None:
            self.ended = time.monotonic()
            self.status = status
            self._notify()

    def _notify(self) -> None:
        for changed in list(self._listeners):
            changed()


class Jobs:
    """All jobs of this server."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def start(self, title: str, module: str, spec: Mapping[str, Any], id: str = "") -> Job:
        """Run `python -m module` with `spec` as one line of JSON on its stdin.

        Args:
            id: finds the job again; a short one is made up if left out.
        """
        job = Job(title, module, spec, id)
        self._jobs[job.id] = job
        return job

    def get(self, id: str) -> Job | None:
        return self._jobs.get(id)

    def running(self, module: str) -> list[Job]:
        """Those of a module that go on, the newest last."""
        return [j for j in list(self._jobs.values()) if j.module == module and j.status == "running"]

    def shutdown(self) -> None:
        """End what still runs: kill what does not end by itself."""
        running = [job for job in list(self._jobs.values()) if job.status == "running"]
        for job in running:
            job.cancel(SHUTDOWN_S)
        limit = time.monotonic() + SHUTDOWN_S
        for job in running:
            with suppress(subprocess.TimeoutExpired):
                job.wait(max(0.0, limit - time.monotonic()))
            job.kill()


JOBS = Jobs()
atexit.register(JOBS.shutdown)  # under `panel serve`, too


class Latest:
    """Runs calls in one thread and drops all that wait but the newest.

    A drag asks for a plan many times a second; only the last answer is of interest.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._waiting: tuple[Callable[[], Any], Callable[[Any], None]] | None = None
        self._busy = False

    def submit(self, compute: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Call `then` with what `compute` returns, or with the PockError it raises, unless a newer call
        came while this one was waiting."""
        with self._lock:
            self._waiting = (compute, then)
            if self._busy:
                return
            self._busy = True
        self._pool.submit(self._drain)

    def _drain(self) -> None:
        while True:
            with self._lock:
                if self._waiting is None:
                    self._busy = False
                    return
                compute, then = self._waiting
                self._waiting = None
            answer: Any = None
            try:
                answer = compute()
            except PockError as e:
                answer = e
            except BaseException:
                with self._lock:
                    self._busy = False  # a bug in one answer must not keep later questions waiting
                raise
            then(answer)
