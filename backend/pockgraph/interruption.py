"""Ctrl-C while a command is still loading its libraries."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ending_on_interrupt(says: str = "") -> Iterator[None]:
    """Inside, Ctrl-C ends the process at once: some libraries take KeyboardInterrupt for an error of theirs.

    Nothing is tidied up, so that nothing may be written inside. A signal that is ignored, or that somebody
    else handles, stays theirs.

    Args:
        says: what is printed then.
    """

    def leave(*_: object) -> None:
        if says:
            print(says, file=sys.stderr, flush=True)
        os._exit(128 + signal.SIGINT)  # as a shell says it

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
