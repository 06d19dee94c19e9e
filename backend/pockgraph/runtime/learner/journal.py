"""Journal: what happened to a learner, in the same file as its samples, the oldest dropped."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from dataclasses import dataclass
from typing import Any, Literal

from .database import Database

MAX_EVENTS = 10_000
Kind = Literal[
    "accepted", "refused", "deleted", "trained", "promoted", "rolled back", "reverted", "drift", "paused",
    "resumed", "waiting", "damaged", "failed",
]  # fmt: skip


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        number: counts on from 1; at: seconds since 1970; kind: what happened.
        key: of the sample, if it was about one that was not deleted since.
        facts: figures, keys with unit suffixes.
    """

    number: int
    at: float
    kind: str
    key: str | None
    facts: dict[str, Any]


def note(write: sqlite3.Connection, kind: Kind, key: str | None = None, **facts: Any) -> None:
    """Add an event, in the caller's transaction; a figure that is not finite becomes None."""
    facts = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in facts.items()}
    number = write.execute(
        "INSERT INTO events (at, kind, key, facts) VALUES (?, ?, ?, ?)",
        (time.time(), kind, key, json.dumps(facts)),
    ).lastrowid
    write.execute("DELETE FROM events WHERE id <= ?", ((number or 0) - MAX_EVENTS,))


def forget_key(write: sqlite3.Connection, key: str) -> None:
    """Take the key of a deleted sample out of earlier events."""
    write.execute("UPDATE events SET key = NULL WHERE key = ?", (key,))


def events(database: Database, last: int = 100) -> list[Event]:
    """The newest events, oldest first."""
    rows = database.read("SELECT * FROM events ORDER BY id DESC LIMIT ?", last)
    return [Event(r["id"], r["at"], r["kind"], r["key"], json.loads(r["facts"])) for r in reversed(rows)]


def newest(database: Database) -> int:
    """The number of the newest event; 0 before the first."""
    return database.read("SELECT coalesce(max(id), 0) FROM events")[0][0]
