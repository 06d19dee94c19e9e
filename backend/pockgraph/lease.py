"""One process at a time analyses a study; one that was killed is soon forgotten."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import StudyError
from .store import Store

BEAT_S, STALE_S = 5.0, 60.0


@contextmanager
def lease(store: Store, analysis: int) -> Iterator[Callable[[], None]]:
    """Keep other processes from taking the same measurements; gives a function to call now and then.

    Raises:
        StudyError: another living process is measuring.
    """
    holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    with store.transaction() as write:
        row = write.execute("SELECT holder, beat FROM analyses WHERE id = ?", (analysis,)).fetchone()
        if row["holder"] and _is_alive(row["holder"], row["beat"]):
            raise StudyError(
                f"{store.path} is being analysed by another process ({row['holder']}). "
                "Wait for it, or stop it."
            )
        write.execute(
            "UPDATE analyses SET holder = ?, beat = ? WHERE id = ?", (holder, time.time(), analysis)
        )
    last = time.monotonic()
    _held.add(holder)

    def beat() -> None:
        nonlocal last
        if time.monotonic() - last > BEAT_S:
            last = time.monotonic()
            with store.transaction() as write:
                write.execute("UPDATE analyses SET beat = ? WHERE holder = ?", (time.time(), holder))

    try:
        yield beat
    finally:
        _held.discard(holder)
        with store.transaction() as write:
            write.execute("UPDATE analyses SET holder = NULL WHERE holder = ?", (holder,))


_held: set[str] = set()


def _is_alive(holder: str, beat: float) -> bool:
    host, pid, _ = holder.rsplit(":", 2)
    if host == socket.gethostname():
        if int(pid) == os.getpid():
            return holder in _held
        if os.name == "posix":
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                return False
            except PermissionError:
                pass  # it lives, and is another user's
    return time.time() - beat < STALE_S
