"""Database: the SQLite file of a learner. What is committed survives a kill; nobody else can read it.

The file is made with mode 0600, its log gets the same. What is deleted is overwritten in the file.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...errors import LearnerError, reason

APPLICATION_ID = 0x506B4C72  # "PkLr"
VERSION = 1
BUSY_TIMEOUT_MS = 20_000
SYNCHRONOUS = "FULL"  # a finished change survives a power failure

_SCHEMA = (
    "CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    # The id is the order of arrival. `recent`: among the newest; else kept by the lottery of `replay.py`.
    """CREATE TABLE samples (
        id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, class TEXT NOT NULL,
        held_out INTEGER NOT NULL, recent INTEGER NOT NULL DEFAULT 1, scored INTEGER NOT NULL DEFAULT 0)""",
    "CREATE INDEX samples_by_part ON samples (held_out, recent, class)",
    """CREATE TABLE arrays (
        sample INTEGER NOT NULL REFERENCES samples ON DELETE CASCADE, name TEXT NOT NULL,
        dtype TEXT NOT NULL, shape TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (sample, name))""",
    """CREATE TABLE classes (
        held_out INTEGER NOT NULL, class TEXT NOT NULL, seen INTEGER NOT NULL,
        filled INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (held_out, class)) WITHOUT ROWID""",
    """CREATE TABLE generations (
        number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, file TEXT NOT NULL, step INTEGER NOT NULL,
        metric REAL NOT NULL, held_out_samples INTEGER NOT NULL, damaged INTEGER NOT NULL DEFAULT 0)""",
    "CREATE TABLE scores (id INTEGER PRIMARY KEY AUTOINCREMENT, value REAL NOT NULL)",
    """CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, kind TEXT NOT NULL, key TEXT,
        facts TEXT NOT NULL)""",
)


class Database:
    """One learner's file, open. Threads may share it; they take turns.

    Args:
        read_only: of a file that another process may be writing.

    Raises:
        LearnerError: it is another program's file, of a newer version, damaged, or cannot be opened.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._process = os.getpid()
        self._closed = False
        self._lock = threading.RLock()
        with self._explained():
            if not read_only:
                _make_private(path)
            self._connection = sqlite3.connect(
                f"{path.as_uri()}?mode={'ro' if read_only else 'rw'}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
            )
        try:
            with self._explained():
                self._set_up(read_only)
        except BaseException:
            self._connection.close()
            raise
        self._file = _identity(path)

    def _set_up(self, read_only: bool) -> None:
        connection = self._connection
        connection.row_factory = sqlite3.Row
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        empty = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application != APPLICATION_ID and (application or not empty or read_only):
            raise LearnerError(f"{self.path} is no learner's file. Choose another folder.")
        if version > VERSION:
            raise LearnerError(
                f"{self.path} has version {version}, and this version of pockgraph reads up to {VERSION}. "
                "Upgrade pockgraph to open it."
            )
        if read_only:
            return
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
        if version < VERSION:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")
        problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise LearnerError(f"{self.path} is damaged ({problem}). Restore it from a copy.")

    def read(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """The rows of a SELECT.

        Raises:
            LearnerError: the file is damaged, gone or locked.
        """
        self._require_usable()
        with self._lock, self._explained():
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything written inside becomes durable at once; an exception undoes it. Not to be nested.

        Raises:
            LearnerError: the file is gone, full, damaged or locked; nothing has changed.
        """
        self._require_usable()
        with self._lock, self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                if _identity(self.path) != self._file:
                    raise LearnerError(
                        f"{self.path} was deleted, moved or replaced while it was in use, so nothing more is "
                        "written to it. Put the file back, or open the learner again."
                    )
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite has undone it where the disk was full
                    self._connection.execute("ROLLBACK")
                raise

    def wipe_log(self) -> None:
        """Take what was deleted out of the write-ahead log, too, unless another process reads just now."""
        self._require_usable()
        with self._lock, self._explained():
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def facts(self) -> dict[str, Any]:
        """What the file says of itself."""
        return {row["key"]: json.loads(row["value"]) for row in self.read("SELECT * FROM facts")}

    def close(self) -> None:
        if self._process == os.getpid():
            with self._lock:
                self._connection.close()
                self._closed = True

    def _require_usable(self) -> None:
        if self._closed:
            raise LearnerError(f"{self.path} was closed. Open the learner again.")
        if self._process != os.getpid():
            raise LearnerError(
                f"{self.path} was opened by process {self._process}, and this is a fork of it. Open the "
                "learner in one process only."
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as e:
            if isinstance(e, sqlite3.DatabaseError) and not isinstance(e, sqlite3.OperationalError):
                hint = "It is damaged or another program's: restore a copy, or choose another folder."
            else:
                hint = "Check that its folder is there, can be written to and has room."
            raise LearnerError(f"Cannot use {self.path}: {reason(e)}. {hint}") from e


def set_fact(write: sqlite3.Connection, key: str, value: Any) -> None:
    """Say something of the file, in the caller's transaction."""
    write.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, json.dumps(value)))


def _make_private(path: Path) -> None:
    """An empty file, or the one that is there, that only its owner can read."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    if os.name == "posix" and path.stat().st_mode & 0o077:
        path.chmod(0o600)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
