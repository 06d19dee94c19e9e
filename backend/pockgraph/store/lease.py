"""Lease: the right to write an analysis's measurements. One process has it at a time.

Whether its owner lives is certain on the same boot and in the same process namespace. Elsewhere (another
machine or container) only silence speaks, and a process that was stopped for a while is silent, too. So
each lease has a token larger than all before, and each write says it in the same transaction: whoever was
taken for dead writes nothing any more, and is told.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import StudyError
from .store import Store

HEARTBEAT_S, STALE_S = 5.0, 60.0  # a holder that was silent for longer is taken for dead


class LeaseLost(StudyError):
    """Another process measures by now, or the analysis was deleted."""


@dataclass(frozen=True)
class Owner:
    """A process, told apart from every other one.

    Attributes:
        host: its machine's name, for people.
        place: of this boot of the system and this namespace of process numbers.
        pid: the process; `started`: when, in the system's own unit, since numbers are used again.
    """

    host: str
    place: str
    pid: int
    started: str

    @classmethod
    def here(cls) -> Owner:
        pid = os.getpid()
        return cls(socket.gethostname(), _boot_and_namespace(), pid, _process(pid)[1])

    @classmethod
    def of(cls, text: str) -> Owner:
        """From a study; earlier versions wrote `host:pid:number`."""
        with suppress(ValueError, TypeError):
            return cls(**json.loads(text))
        host, _, rest = text.partition(":")
        pid = rest.partition(":")[0]
        return cls(host, "", int(pid) if pid.isdigit() else 0, "")

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_alive(self) -> bool | None:
        """Whether it runs or is stopped; None: that cannot be told from here."""
        near = self.place == _boot_and_namespace() if self.place else self.host == socket.gethostname()
        if not near or os.name != "posix" or self.pid <= 0:
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # it lives, and is another user's
        state, started = _process(self.pid)
        return state not in ("Z", "X") and self.started in ("", started)  # one that nobody waited for is dead


class Lease:
    """The right to write one analysis.

    Attributes:
        token: larger than that of any earlier lease of the study.
        analysis: the row's number.
    """

    def __init__(self, store: Store, settings: str, new: Mapping[str, Any]) -> None:
        """Take it; see `lease`."""
        self._store, self._settings = store, settings
        self._lost: StudyError | None = None
        holder = Owner.here()
        columns = {"settings": settings, "used": 0, **new}
        names = ", ".join(columns)
        with store.transaction("measurements") as write:
            write.execute(
                f"INSERT INTO analyses ({names}) VALUES ({', '.join('?' * len(columns))}) "
                "ON CONFLICT DO NOTHING",
                tuple(columns.values()),
            )
            row = write.execute("SELECT * FROM analyses WHERE settings = ?", (settings,)).fetchone()
            if row["holder"]:
                _refuse_if_held(store, Owner.of(row["holder"]), row["beat"], row["token"])
            self.analysis: int = row["id"]
            self.token = write.execute(
                "INSERT INTO leases (holder, taken) VALUES (?, ?)", (str(holder), time.time())
            ).lastrowid
            write.execute(
                "UPDATE analyses SET holder = ?, beat = ?, token = ?, "
                "used = (SELECT max(used) + 1 FROM analyses) WHERE id = ?",
                (json.dumps(asdict(holder)), time.time(), self.token, self.analysis),
            )
        _held.add((str(store.path), self.token))

    @contextmanager
    def transaction(self, touch: str = "") -> Iterator[sqlite3.Connection]:
        """As `Store.transaction`, and only while the lease is this process's.

        Raises:
            LeaseLost: it is not any more; nothing was written.
        """
        with self._store.transaction(touch) as write:
            row = write.execute(
                "SELECT token, holder FROM analyses WHERE id = ? AND settings = ?",
                (self.analysis, self._settings),
            ).fetchone()
            if row is None:
                raise LeaseLost(
                    f"The analysis that was being measured was deleted from {self._store.path}. Nothing more "
                    "was written; call analyze again to start it anew."
                )
            if row["token"] != self.token:
                by = f" {Owner.of(row['holder'])} goes on with it." if row["holder"] else ""
                raise LeaseLost(
                    f"This analysis of {self._store.path} was silent for so long that another one took over."
                    f"{by} Nothing more was written from here; what was measured before is kept."
                )
            yield write

    def row(self) -> sqlite3.Row:
        """The analysis as it is now."""
        with self.transaction() as write:
            return write.execute("SELECT * FROM analyses WHERE id = ?", (self.analysis,)).fetchone()

    def check(self) -> None:
        """
        Raises:
            LeaseLost: the last heartbeat found that the lease is another's.
        """
        if self._lost is not None:
            raise self._lost

    def heartbeat(self) -> None:
        """Say that this process lives; what goes wrong is kept for `check`."""
        try:
            with self.transaction() as write:
                write.execute("UPDATE analyses SET beat = ? WHERE id = ?", (time.time(), self.analysis))
        except LeaseLost as e:
            self._lost = e
        except StudyError:
            pass  # locked or full for the moment; the next result to be written will tell

    def release(self) -> None:
        _held.discard((str(self._store.path), self.token))
        with suppress(StudyError), self.transaction() as write:
            write.execute("UPDATE analyses SET holder = NULL WHERE id = ?", (self.analysis,))


@contextmanager
def lease(store: Store, settings: str, new: Mapping[str, Any]) -> Iterator[Lease]:
    """Keep other processes from taking the same measurements.

    Args:
        settings: the analysis's, by which it is found.
        new: the other columns of its row, when there is none yet.

    Raises:
        StudyError: another living process is measuring.
    """
    taken = Lease(store, settings, new)
    ended = threading.Event()

    def keep_alive() -> None:  # in a thread: compiling a large model takes minutes without a step
        while not ended.wait(HEARTBEAT_S):
            taken.heartbeat()

    thread = threading.Thread(target=keep_alive, name="pockui-lease", daemon=True)
    thread.start()
    try:
        yield taken
    finally:
        ended.set()
        thread.join()
        taken.release()


_held: set[tuple[str, int | None]] = set()  # by threads of this process


def _refuse_if_held(store: Store, owner: Owner, beat: float, token: int) -> None:
    alive = owner.is_alive()
    if owner.pid == os.getpid() and alive:  # this process, or one of an earlier version with its number
        alive = (str(store.path), token) in _held
    silent_s = abs(time.time() - beat)
    if alive is None:
        alive = silent_s < STALE_S
    if alive:
        raise StudyError(
            f"{store.path} is being analysed by another process ({owner}, last heard of {silent_s:.0f} s "
            "ago). Wait for it, or end it."
        )


def _boot_and_namespace() -> str:
    """Of this boot and this namespace of process numbers; empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process(pid: int) -> tuple[str, str]:
    """State and start (in clock ticks since the boot) of a process; empty where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        return "", ""
