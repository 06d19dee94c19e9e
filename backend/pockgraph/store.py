"""Store: the SQLite file under a study. Schema, versions, transactions; nothing about training.

Write-ahead logging lets many processes read while one writes. Every change is one transaction, so that
a process killed at any moment leaves the last finished change, and nothing of the next.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import StudyError

APPLICATION_ID = 0x506B5374  # "PkSt": what the header of a study says the file is
BUSY_TIMEOUT_MS = 20_000

# Version n is what the first n scripts make. A release never changes a script, it appends one.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE facts (            -- what the study is of, one JSON value each; never changes
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) STRICT;
    CREATE TABLE documents (        -- large JSON that is replaced as a whole: the profile, device profiles
        name TEXT PRIMARY KEY,
        json TEXT NOT NULL,
        changed REAL NOT NULL
    ) STRICT;
    CREATE TABLE analyses (         -- settings under which measurements can be compared with each other
        id INTEGER PRIMARY KEY,
        settings TEXT NOT NULL UNIQUE,
        lr REAL,                    -- tuned or given; NULL while it is being tuned
        target TEXT,
        estimates TEXT NOT NULL DEFAULT '{}',
        head TEXT NOT NULL,
        bias_order TEXT NOT NULL,
        used INTEGER NOT NULL,      -- larger is later
        holder TEXT,                -- the process that is measuring
        beat REAL NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE measurements (
        id INTEGER PRIMARY KEY,
        analysis INTEGER NOT NULL REFERENCES analyses(id),
        purpose TEXT NOT NULL CHECK (purpose IN ('tuning', 'contribution')),
        kind TEXT NOT NULL CHECK (kind IN ('head', 'weight', 'bias_k')),
        fqn TEXT NOT NULL DEFAULT '',
        ratio REAL NOT NULL DEFAULT 0,
        k INTEGER NOT NULL DEFAULT 0,
        seed INTEGER NOT NULL,
        tried_lr REAL NOT NULL DEFAULT 0,   -- while tuning; otherwise the analysis's rate is used
        status TEXT NOT NULL DEFAULT 'planned'
            CHECK (status IN ('planned', 'done', 'diverged', 'failed')),
        lr REAL,
        steps INTEGER NOT NULL,
        target TEXT NOT NULL DEFAULT '',
        metric REAL,
        loss REAL,
        duration_s REAL,
        finished REAL,
        error TEXT NOT NULL DEFAULT '',
        UNIQUE (analysis, purpose, kind, fqn, ratio, k, seed, tried_lr)
    ) STRICT;
    CREATE TABLE plans (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        json TEXT NOT NULL,
        created REAL NOT NULL
    ) STRICT;
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY,
        status TEXT NOT NULL CHECK (status IN ('running', 'done', 'cancelled', 'failed')),
        target TEXT NOT NULL,
        created REAL NOT NULL,
        json TEXT NOT NULL
    ) STRICT;
    CREATE TABLE parities (         -- how a target's numbers compare with PyTorch's
        id INTEGER PRIMARY KEY,
        target TEXT NOT NULL,
        plan TEXT NOT NULL,
        passed INTEGER NOT NULL,
        created REAL NOT NULL,
        json TEXT NOT NULL
    ) STRICT;
    CREATE TABLE revisions (        -- counts changes, so that readers know when to read again
        name TEXT PRIMARY KEY,
        value INTEGER NOT NULL
    ) STRICT;
    """,
)


class Store:
    """One study file, open. Each thread gets a connection of its own.

    Raises:
        StudyError: there is no such file, it is no study, it is damaged, or a newer version made it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).resolve()
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        _check_header(self.path)
        try:
            with _explained(self.path):
                self._migrate()
                problem = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise StudyError(f"The study {self.path} is damaged ({problem}). Restore it from a copy.")
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: str | os.PathLike[str], facts: Mapping[str, Any]) -> Store:
        """Make a study with these facts; if another process was faster, open that one's.

        The file appears complete or not at all.
        """
        final = Path(path).resolve()
        partial = final.with_name(f".{final.name}.{secrets.token_hex(4)}")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            with _explained(final):
                _write_new(partial, facts)
            _place(partial, final)
        except OSError as e:
            raise StudyError(f"Cannot make the study {final}: {e}. Choose another place.") from e
        finally:
            with suppress(OSError):
                partial.unlink()
        return cls(final)

    @property
    def _connection(self) -> sqlite3.Connection:
        held = getattr(self._local, "held", None)
        if held is None or held[0] != os.getpid():  # a connection does not survive a fork
            connection = sqlite3.connect(
                f"{self.path.as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False
            )
            connection.row_factory = sqlite3.Row
            connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")
            held = self._local.held = (os.getpid(), connection)
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
        if version == len(MIGRATIONS):
            return
        with self.transaction() as write:
            # Another process may have migrated while this one waited for the lock.
            version = write.execute("PRAGMA user_version").fetchone()[0]
            for number in range(version, len(MIGRATIONS)):
                for statement in statements(MIGRATIONS[number]):
                    write.execute(statement)
            write.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    # ------------------------------------------------------------------ reading and writing

    def read(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """The rows of a SELECT.

        Raises:
            StudyError: the file is damaged, gone or locked.
        """
        with _explained(self.path):
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self, touch: str = "") -> Iterator[sqlite3.Connection]:
        """Everything written inside becomes visible, and durable, at once; an exception undoes it.

        Args:
            touch: the revision to advance, see `revision`.
        """
        with _explained(self.path):
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                if touch:
                    connection.execute(
                        "INSERT INTO revisions VALUES (?, 1) ON CONFLICT DO UPDATE SET value = value + 1",
                        (touch,),
                    )
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def revision(self, name: str) -> int:
        """Grows with every transaction that touches `name`, in whatever process."""
        rows = self.read("SELECT value FROM revisions WHERE name = ?", name)
        return rows[0][0] if rows else 0

    def facts(self) -> dict[str, Any]:
        return {row["key"]: json.loads(row["value"]) for row in self.read("SELECT * FROM facts")}

    def document(self, name: str) -> str | None:
        """A stored JSON text, or None."""
        rows = self.read("SELECT json FROM documents WHERE name = ?", name)
        return rows[0][0] if rows else None

    def close(self) -> None:
        """Close all threads' connections; a later call opens a new one."""
        with self._lock:
            for connection in self._opened:
                connection.close()
            self._opened.clear()
        self._local = threading.local()


def _write_new(path: Path, facts: Mapping[str, Any]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        for script in MIGRATIONS:
            for statement in statements(script):
                connection.execute(statement)
        rows = [(k, json.dumps(v)) for k, v in facts.items()]
        connection.executemany("INSERT INTO facts VALUES (?, ?)", rows)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")


def statements(script: str) -> Sequence[str]:
    """The statements of a script; `executescript` would commit the transaction around it."""
    found, text = [], ""
    for line in script.splitlines(keepends=True):
        text += line
        if sqlite3.complete_statement(text):
            found.append(text)
            text = ""
    return found


def _check_header(path: Path) -> None:
    """Refuse what is no study before SQLite touches it."""
    try:
        with path.open("rb") as f:
            header = f.read(100)
    except FileNotFoundError:
        raise StudyError(
            f"There is no study {path}. Make one with Study(path, task), or check the path."
        ) from None
    except OSError as e:
        raise StudyError(f"Cannot read the study {path}: {e.strerror}.") from None
    is_sqlite = len(header) == 100 and header.startswith(b"SQLite format 3\0")
    if not is_sqlite or struct.unpack(">I", header[68:72])[0] != APPLICATION_ID:
        what = "another program's SQLite database" if is_sqlite else "no SQLite database"
        raise StudyError(f"{path} is no study: it is {what}. It was left as it is; choose another file.")


def _place(partial: Path, final: Path) -> None:
    """Give a complete file its name, unless another one has it by now (an empty file does not count)."""
    if final.exists() and not final.stat().st_size:
        os.replace(partial, final)
        return
    try:
        os.link(partial, final)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not final.exists():
            os.replace(partial, final)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as e:
        raise StudyError(
            f"Cannot use the study {path}: {e}. Check that its folder can be written to, has room, and that "
            "no other process blocks it."
        ) from e
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as e:
        raise StudyError(f"The study {path} is damaged: {e}. Restore it from a copy.") from e
