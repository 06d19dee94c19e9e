"""A job's process, as `jobs.py` starts it: a line of JSON in, events out, and an end with its parent.

The end of its stdin asks a worker to end. Each reports what went wrong in one event, the last one it writes:

    {"kind": "error", "message": …}    and exit code 1
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from pockgraph.errors import PockError

from .foreign_exceptions import explain

STOP_S = 8.0  # in which what is asked to end has ended, and is kept


class Reporter:
    """Writes events where the parent reads them, and nobody else writes."""

    def __init__(self) -> None:
        self._stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # what a user's task prints must not look like an event

    def __call__(self, kind: str, **data: Any) -> None:
        with suppress(BrokenPipeError):  # the server has ended; the study is still to be written
            self._stream.write(json.dumps({"kind": kind, **data}) + "\n")
            self._stream.flush()


class Stop:
    """Whether a worker was asked to end, and whether it is where it can: between two steps."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._done = threading.Event()
        self._done.set()

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """What happens inside ends soon after it was asked to, and keeps what there is."""
        self._done.clear()
        try:
            yield
        finally:
            self._done.set()

    def ask(self) -> None:
        """Ask, and wait until it has ended, for a while."""
        self._asked.set()
        self._done.wait(STOP_S)


@dataclass(frozen=True)
class Spec:
    """What a job is asked for: the keywords of the line that its process reads."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


Asked = TypeVar("Asked")  # a `Spec`, or keywords as they are


def run(
    work: Callable[[Asked, Reporter, Stop], None],
    read: Callable[..., Asked],
    *,
    tidy: Callable[[Asked], None] = lambda _: None,
    again: Callable[[Asked], str] = lambda _: "pockui --debug",
) -> int:
    """Do what the line on stdin says; returns the exit code.

    Args:
        work: raises what went wrong, PockErrors and others.
        read: makes a spec of the line's keywords.
        tidy: removes what is of no use when `work` was ended, or raised.
        again: the command that shows more of an exception that is not ours.
    """
    report, stop = Reporter(), Stop()
    spec = read(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, args=(stop, lambda: tidy(spec)), daemon=True).start()
    try:
        work(spec, report, stop)
    except PockError as e:
        report("error", message=str(e))
    except Exception as e:
        traceback.print_exc()
        report("error", message=explain(e, again(spec))[0])
    else:
        return 1 if stop.asked else 0
    tidy(spec)
    return 1


def _end_with_parent(stop: Stop, tidy: Callable[[], None]) -> None:
    """Stop when the server's end of the pipe closes, which it does however the server ends."""
    while os.read(0, 4096):  # not sys.stdin: its lock would be held when the interpreter shuts down
        pass
    stop.ask()
    tidy()
    if os.name == "posix" and os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with what it has started: data loaders, measurements, compilers
    os._exit(1)
