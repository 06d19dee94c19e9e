"""Signals as a request to stop: what is being done is finished, and saved, before the process ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StopRequest:
    """Whether a signal asked to stop.

    Attributes:
        signal: which one; None while there was none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def requested(self) -> bool:
        return self.signal is not None

    @property
    def status(self) -> int:
        """What the process ends with: 0, or as a shell says it, 128 + the signal."""
        return 0 if self.signal is None else 128 + self.signal


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Inside, the first Ctrl-C, TERM or HUP only sets the yielded request; the second ends the process.

    A signal that the process was started to ignore (`nohup`) stays ignored. Outside the main thread, which
    alone gets signals, nothing is changed.
    """
    stop = StopRequest()
    before: dict[int, object] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        for n in before:
            signal.signal(n, signal.SIG_DFL)

    if threading.current_thread() is threading.main_thread():
        for n in _ASKING:
            # None: a handler that Python did not install and could not give back.
            if signal.getsignal(n) not in (signal.SIG_IGN, None):
                before[n] = signal.signal(n, handle)
    try:
        yield stop
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)  # pyright: ignore
