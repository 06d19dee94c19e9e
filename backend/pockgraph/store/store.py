"""Store: the SQLite file under a study. Opening, versions, transactions; nothing about training.

Write-ahead logging lets many processes read while one writes. Every change is one transaction, so that
a process killed at any moment leaves the last finished change, and nothing of the next. What is promised
when is in `docs/reliability.md`.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import PockError, StudyError, reason
from ..files import as_path, creating
from .schema import MIGRATIONS, statements

HEADER_BYTES = 100  # of an SQLite file; a shorter one is none
APPLICATION_ID = 0x506B5374  # "PkSt": what the header of a study says the file is
BUSY_TIMEOUT_MS = 20_000
SYNCHRONOUS = "FULL"  # a finished change survives a power failure


class Store:
    """One study file, open. Each thread gets a connection of its own.

    Args:
        read_only: leave the file as it is, its tables those of the release that made it.

    Attributes:
        path: the file.
        writable: whether it can be changed; otherwise it is only read, and stays as it is.

    Raises:
        StudyError: there is no such file, it is no study, it is damaged, or a newer version made it.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.path = study_path(path)
        self._read_only = read_only
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._file = _check_header(self.path)
        self.writable = not read_only and all(os.access(p, os.W_OK) for p in (self.path, self.path.parent))
        try:
            with self._explained():
                self._migrate()
                problem = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise StudyError(f"The study {self.path} is damaged ({problem}). Restore it from a copy.")
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        facts: Mapping[str, Any],
        fill: Callable[[sqlite3.Connection], None] | None = None,
    ) -> Store:
        """Make a study with these facts; if another process was faster, open that one's.

        The file appears complete or not at all.

        Args:
            fill: writes what else the new file holds.
        """
        final = study_path(path)
        try:
            with creating(final) as new:
                _write_new(new, facts, fill)
        except (OSError, sqlite3.Error) as e:
            raise StudyError(
                f"Cannot make the study {final}: {reason(e)}. Choose another place, or make room there."
            ) from e
        return cls(final)

    @property
    def _connection(self) -> sqlite3.Connection:
        held = getattr(self._local, "held", None)
        log = Path(f"{self.path}-wal")
        # A connection does not survive a fork, and one that takes the file for immutable no change of it.
        valid = (os.getpid(), None if self.writable else (_state_of(self.path), _state_of(log)))
        if held is None or held[0] != valid:
            access = "mode=rw" if self.writable else "mode=ro"
            if not self.writable and not (log.exists() and log.stat().st_size):
                access += "&immutable=1"  # leaves nothing behind, and ignores a log: so there must be none
            connection = sqlite3.connect(
                f"{self.path.as_uri()}?{access}", uri=True, isolation_level=None, check_same_thread=False
            )
            connection.row_factory = sqlite3.Row
            connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
            held = self._local.held = (valid, connection)
            with self._lock:
                self._opened.append(connection)
        return held[1]

    def _migrate(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise StudyError(
                f"The study {self.path} has schema version {version}, and this version of PockUI reads "
                f"up to {len(MIGRATIONS)}. Upgrade PockUI to open it."
            )
        if version == len(MIGRATIONS) or not self.writable:  # what is only read is the same in all versions
            return
        connection = self._connection
        connection.execute("PRAGMA foreign_keys = OFF")  # a table that others refer to may be made anew
        try:
            with self.transaction() as write:
                # Another process may have migrated while this one waited for the lock.
                version = write.execute("PRAGMA user_version").fetchone()[0]
                for number in range(version, len(MIGRATIONS)):
                    for statement in statements(MIGRATIONS[number]):
                        write.execute(statement)
                write.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        finally:
            connection.execute("PRAGMA foreign_keys = ON")

    # ------------------------------------------------------------------ reading and writing

    def read(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """The rows of a SELECT.

        Raises:
            StudyError: the file is damaged, gone or locked.
        """
        with self._explained():
            return self._connection.execute(sql, values).fetchall()

    def has_table(self, name: str) -> bool:
        """Whether the file has it: one that can only be read keeps the tables of the version that made it."""
        return bool(self.read("SELECT 1 FROM sqlite_master WHERE (type, name) = ('table', ?)", name))

    @contextmanager
    def transaction(self, touch: str = "") -> Iterator[sqlite3.Connection]:
        """Everything written inside becomes visible, and durable, at once; an exception undoes it.

        Args:
            touch: the revision to advance, see `revision`.

        Raises:
            StudyError: the study can only be read, or its file is gone, full, damaged or locked.
        """
        self.check_writable()
        with self._explained():
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                if touch:
                    advance(connection, touch)
                self._check_same_file()
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite has undone it where the disk was full
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def check_writable(self) -> None:
        """
        Raises:
            StudyError: the study can only be read.
        """
        if self._read_only:
            raise StudyError(
                f"The study {self.path} was opened to be read. Open it without read_only to change it."
            )
        if not self.writable:
            raise StudyError(
                f"The study {self.path} can only be read: its file or folder is write-protected. Copy it to "
                "a folder that can be written to, and open the copy."
            )

    def _check_same_file(self) -> None:
        """Whoever writes to a deleted file would not notice: it lives on until the last one closes it."""
        with suppress(OSError):
            now = self.path.stat()
            if (now.st_dev, now.st_ino) == self._file:
                return
        raise StudyError(
            f"The study {self.path} was deleted, moved or replaced while it was in use, so nothing more is "
            "written to it. Put the file back, or start again."
        )

    def revision(self, name: str) -> int:
        """Grows with every transaction that touches `name`, in whatever process."""
        rows = self.read("SELECT value FROM revisions WHERE name = ?", name)
        return rows[0][0] if rows else 0

    def facts(self) -> dict[str, Any]:
        """
        Raises:
            StudyError: one of them is no JSON.
        """
        facts = {}
        for row in self.read("SELECT * FROM facts"):
            with self.decoding(f"the fact {row['key']!r}"):
                facts[row["key"]] = json.loads(row["value"])
        return facts

    def document(self, name: str) -> str | None:
        """A stored JSON text, or None."""
        rows = self.read("SELECT json FROM documents WHERE name = ?", name)
        return rows[0][0] if rows else None

    @contextmanager
    def decoding(self, what: str, remedy: str = "Restore the study from a copy.") -> Iterator[None]:
        """Whatever reading a row's JSON stumbles over becomes a StudyError that names the row."""
        try:
            yield
        except StudyError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError,
                PockError) as e:  # fmt: skip
            why = str(e).splitlines()[0] if str(e) and isinstance(e, PockError | ValueError) else repr(e)
            raise StudyError(
                f"The study {self.path} is damaged: {what} cannot be read ({why}). {remedy}"
            ) from e

    def close(self) -> None:
        """Close all threads' connections; a later call opens a new one."""
        with self._lock:
            for connection in self._opened:
                connection.close()
            self._opened.clear()
        self._local = threading.local()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except UnicodeError as e:  # damaged text, in a message of SQLite's own, too
            raise StudyError(f"The study {self.path} is damaged: {reason(e)}. Restore it from a copy.") from e
        except sqlite3.Error as e:
            damaged = not isinstance(e, sqlite3.OperationalError)
            if damaged or str(e).startswith(("no such", "Could not decode")):
                raise StudyError(
                    f"The study {self.path} is damaged: {reason(e)}. Restore it from a copy."
                ) from e
            if not self.writable:
                hint = (
                    "It lies where nothing can be written. If a file beside it ends in -wal, that holds its "
                    "newest changes: copy both to a folder that can be written to, and open the copy."
                )
            else:
                hint = (
                    "Check that its folder can be written to, has room, and that no other process blocks it."
                )
            raise StudyError(f"Cannot use the study {self.path}: {reason(e)}. {hint}") from e


def advance(write: sqlite3.Connection, revision: str) -> None:
    """Count a revision on, in the caller's transaction; see `Store.revision`."""
    write.execute(
        "INSERT INTO revisions VALUES (?, 1) ON CONFLICT DO UPDATE SET value = value + 1", (revision,)
    )


def is_study(path: Path) -> bool:
    """Whether a file says of itself that it is a study; nothing but its header is read."""
    try:
        _check_header(path)
    except StudyError:
        return False
    return True


def study_path(path: str | os.PathLike[str]) -> Path:
    """The absolute path of a study.

    Raises:
        StudyError: no file can have that name.
    """
    try:
        found = as_path(path, StudyError).resolve()
        found.is_file()
    except (OSError, ValueError, RuntimeError) as e:  # too long, with a NUL character, links in a circle
        raise StudyError(
            f"No study can be at {str(path)[:200]!r}: {reason(e)}. Choose another path."
        ) from None
    return found


def _write_new(
    path: Path, facts: Mapping[str, Any], fill: Callable[[sqlite3.Connection], None] | None
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
        connection.execute("BEGIN")
        for script in MIGRATIONS:
            for statement in statements(script):
                connection.execute(statement)
        rows = [(k, json.dumps(v)) for k, v in facts.items()]
        connection.executemany("INSERT INTO facts VALUES (?, ?)", rows)
        if fill is not None:
            fill(connection)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")


def _check_header(path: Path) -> tuple[int, int]:
    """Refuse what is no study before SQLite changes it; returns which file it is (device, inode).

    SQLite itself reads the header: had this process another connection to the file, then closing a file of
    our own would drop that one's locks (they are the process's), and whoever else closes the study would
    delete the log under it.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise StudyError(
            f"There is no study {path}. Check the path, or make one: pockui analyze MODULE:TASK --study "
            f"{path} (in Python, Study(path, task))."
        ) from None
    except OSError as e:
        raise _unreadable(path, reason(e)) from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if path.is_dir() else "a device or pipe"
        raise StudyError(f"{path} is no study: it is {kind}. Choose a file.")
    what = "no SQLite database"
    if found.st_size >= HEADER_BYTES:
        url = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        try:
            with closing(sqlite3.connect(url, uri=True)) as connection:
                connection.execute("PRAGMA writable_schema = ON")  # reads the header of one that was cut off
                number = connection.execute("PRAGMA application_id").fetchone()[0]
        except sqlite3.OperationalError as e:
            why = reason(e) if os.access(path, os.R_OK) else os.strerror(errno.EACCES).lower()
            raise _unreadable(path, why) from None
        except sqlite3.DatabaseError:
            number = None
        if number == APPLICATION_ID:
            return found.st_dev, found.st_ino
        if number is not None:
            what = "another program's SQLite database"
    raise StudyError(f"{path} is no study: it is {what}. It was left as it is; choose another file.")


def _unreadable(path: Path, why: str) -> StudyError:
    return StudyError(f"Cannot read the study {path}: {why}. Check the path, and that you may read it.")


def _state_of(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file: another user may write what this one can only read."""
    with suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size
    return None
