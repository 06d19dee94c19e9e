"""A process that reads jobs from its standard input until that ends, and writes results to its output."""

from __future__ import annotations

import os
import pickle
import queue
import struct
import threading
import traceback
from typing import IO, Any

from ..foreign_exceptions import said

_LENGTH = struct.Struct("<Q")


def write(pipe: IO[bytes], message: bytes) -> None:
    """One message, to be read as one."""
    pipe.write(_LENGTH.pack(len(message)))
    pipe.write(message)
    pipe.flush()


def read(pipe: IO[bytes]) -> bytes | None:
    """The next message; None: the other side has ended, maybe in the middle of one."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    message = pipe.read(length)
    return message if len(message) == length else None


def main() -> None:
    """Take one job after another."""
    inbox, outbox = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # A task's own code may read and print: it gets nothing to read, and prints where errors go.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def receive() -> None:
        while (job := read(inbox)) is not None:
            jobs.put(job)
        os._exit(0)  # nobody waits for a result any more

    threading.Thread(target=receive, name="pockui-jobs", daemon=True).start()
    while True:
        write(outbox, _answer(jobs.get()))


def _answer(job: bytes) -> bytes:
    """(whether it succeeded, its result or exception), pickled."""
    try:
        fn, args, kwargs = pickle.loads(job)
        return pickle.dumps((True, fn(*args, **kwargs)))
    except SystemExit as e:  # ends this job, not the process, and nothing where it is raised again
        return pickle.dumps((False, RuntimeError(said(e))))
    except Exception as e:
        return _failure(e)


def _failure(error: Exception) -> bytes:
    error.add_note(f"In a worker process:\n{''.join(traceback.format_exception(error)).rstrip()}")
    answer: tuple[bool, Any] = (False, error)
    try:
        pickled = pickle.dumps(answer)
        pickle.loads(pickled)
    except Exception:  # an exception of the user's own, say one that needs arguments to be made
        return pickle.dumps((False, RuntimeError(said(error))))
    return pickled
