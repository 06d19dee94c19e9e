"""Replay: which samples a learner keeps. A bounded number: the newest, and a balanced choice of all others.

A sample that is no longer among the newest enters a lottery in which each class gets the same room: the
class-balancing reservoir of Chrysakis and Moens (ICML 2020). While there is room all are kept; then a sample
of a class that never was the largest takes the place of one of the largest class, and one of a class that was
takes the place of one of its own with the probability that makes each sample of the class equally likely to
be there. Training and held-out samples are two such stores, and a sample's key decides which it belongs to.
"""

from __future__ import annotations

import hashlib
import math
import random
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ...errors import LearnerError
from . import journal
from .database import Database
from .samples import Arrays

_DTYPES = {
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32",
    "float64",
}  # fmt: skip
_QUERY_IDS = 500  # SQLite takes a limited number of values at once


@dataclass(frozen=True)
class Rooms:
    """How many samples there is room for.

    Attributes:
        recent, reservoir: of the newest, and of the others; for `(training, held-out)` samples.
    """

    recent: tuple[int, int]
    reservoir: tuple[int, int]

    @classmethod
    def of(cls, samples: int, held_out_ratio: float, recent_ratio: float) -> Rooms:
        """At most `samples` in all, at least one in each room."""
        held_out = min(max(round(samples * held_out_ratio), 2), samples - 2)
        parts = (samples - held_out, held_out)
        recent = tuple(min(max(round(n * recent_ratio), 1), n - 1) for n in parts)
        return cls((recent[0], recent[1]), (parts[0] - recent[0], parts[1] - recent[1]))


def is_held_out(key: str, ratio: float) -> bool:
    """Whether the sample of this key is held out, on every device and for ever."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") < ratio * 2.0**64


class Replay:
    """The samples in a learner's file.

    Args:
        held_out_ratio: the share of keys whose samples are never trained on.
        seed: of the lottery.

    Attributes:
        seed: as given.
    """

    def __init__(self, database: Database, rooms: Rooms, held_out_ratio: float, seed: int) -> None:
        self._database, self._rooms, self._ratio, self.seed = database, rooms, held_out_ratio, seed

    # ---------------------------------------------------------------- writing, in the caller's transaction

    def add(self, write: sqlite3.Connection, key: str, kind: str, arrays: Arrays) -> bool:
        """Take a sample in, in place of an earlier one of the same key.

        Args:
            kind: its class.

        Returns:
            Whether it is held out.
        """
        self.delete(write, key)
        held_out = is_held_out(key, self._ratio)
        number = write.execute(
            "INSERT INTO samples (key, class, held_out) VALUES (?, ?, ?)", (key, kind, held_out)
        ).lastrowid
        write.executemany(
            "INSERT INTO arrays VALUES (?, ?, ?, ?, ?)",
            [(number, n, str(a.dtype), ",".join(map(str, a.shape)), a.tobytes()) for n, a in arrays.items()],
        )
        self._make_room(write, held_out)
        return held_out

    def delete(self, write: sqlite3.Connection, key: str) -> bool:
        """Take a sample out; False if there is none of this key."""
        row = write.execute("SELECT * FROM samples WHERE key = ?", (key,)).fetchone()
        if row is None:
            return False
        write.execute("DELETE FROM samples WHERE id = ?", (row["id"],))
        if not row["recent"]:  # as if it had not come; there is room now, for whatever class
            part = (row["held_out"],)
            write.execute(
                "UPDATE classes SET seen = seen - 1 WHERE held_out = ? AND class = ?", (*part, row["class"])
            )
            write.execute("UPDATE classes SET filled = 0 WHERE held_out = ?", part)
            write.execute("DELETE FROM classes WHERE held_out = ? AND seen <= 0", part)
        return True

    def refuse(self, write: sqlite3.Connection, number: int, why: str) -> None:
        """Take a sample out that cannot be trained on or evaluated, with an event that says so."""
        row = write.execute("SELECT key FROM samples WHERE id = ?", (number,)).fetchone()
        if row is not None:
            self.delete(write, row["key"])
            journal.note(write, "refused", row["key"], reason=why)

    def settle(self, write: sqlite3.Connection) -> None:
        """Keep to the rooms, which may be smaller than when the file was written."""
        for held_out in (False, True):
            self._make_room(write, held_out)
            room = self._rooms.reservoir[held_out]
            counts = self._counts(write, held_out)
            draw = random.Random(f"{self.seed}:settle")
            while sum(counts.values()) > room:
                largest = max(counts, key=lambda c: (counts[c], c))
                self._evict(write, held_out, largest, counts[largest], draw)
                counts[largest] -= 1

    def _make_room(self, write: sqlite3.Connection, held_out: bool) -> None:
        """Let the oldest of the newest enter the lottery."""
        rows = write.execute(
            "SELECT id, class FROM samples WHERE held_out = ? AND recent = 1 ORDER BY id DESC "
            "LIMIT -1 OFFSET ?",
            (held_out, self._rooms.recent[held_out]),
        ).fetchall()
        for row in reversed(rows):
            if self._wins(write, row["id"], held_out, row["class"]):
                write.execute("UPDATE samples SET recent = 0 WHERE id = ?", (row["id"],))
            else:
                write.execute("DELETE FROM samples WHERE id = ?", (row["id"],))

    def _wins(self, write: sqlite3.Connection, number: int, held_out: bool, kind: str) -> bool:
        """Whether a sample gets a place; another one made it, where there was none free."""
        seen, filled = write.execute(
            "INSERT INTO classes VALUES (?, ?, 1, 0) ON CONFLICT DO UPDATE SET seen = seen + 1 "
            "RETURNING seen, filled",
            (held_out, kind),
        ).fetchone()
        counts = self._counts(write, held_out)
        if sum(counts.values()) < self._rooms.reservoir[held_out]:
            return True
        draw = random.Random(f"{self.seed}:{number}")
        most = max(counts.values())
        largest = sorted(c for c, n in counts.items() if n == most)
        write.executemany(
            "UPDATE classes SET filled = 1 WHERE held_out = ? AND class = ?", [(held_out, c) for c in largest]
        )
        own = counts.get(kind, 0)
        if own and (filled or kind in largest):
            if draw.random() >= own / seen:
                return False
            loser = kind
        else:
            loser = draw.choice(largest)
        self._evict(write, held_out, loser, counts[loser], draw)
        return True

    def _evict(
        self, write: sqlite3.Connection, held_out: bool, kind: str, count: int, draw: random.Random
    ) -> None:
        write.execute(
            "DELETE FROM samples WHERE id = (SELECT id FROM samples WHERE held_out = ? AND recent = 0 "
            "AND class = ? ORDER BY id LIMIT 1 OFFSET ?)",
            (held_out, kind, draw.randrange(count)),
        )

    def _counts(self, write: sqlite3.Connection, held_out: bool) -> dict[str, int]:
        rows = write.execute(
            "SELECT class, count(*) FROM samples WHERE held_out = ? AND recent = 0 GROUP BY class",
            (held_out,),
        )
        return {row[0]: row[1] for row in rows}

    # ---------------------------------------------------------------- reading

    def count(self, held_out: bool) -> int:
        return self._database.read("SELECT count(*) FROM samples WHERE held_out = ?", held_out)[0][0]

    def by_class(self, held_out: bool) -> dict[str, int]:
        """Class -> how many samples are kept."""
        rows = self._database.read(
            "SELECT class, count(*) FROM samples WHERE held_out = ? GROUP BY class ORDER BY class", held_out
        )
        return {row[0]: row[1] for row in rows}

    def newest(self) -> int:
        """The number of the sample that came last; 0 before the first."""
        return self._database.read("SELECT coalesce(max(id), 0) FROM samples")[0][0]

    def numbers(self, held_out: bool, recent: bool | None = None) -> list[int]:
        """The samples' numbers, in the order of their arrival."""
        which = "" if recent is None else f" AND recent = {int(recent)}"
        rows = self._database.read(f"SELECT id FROM samples WHERE held_out = ?{which} ORDER BY id", held_out)
        return [row[0] for row in rows]

    def draw(self, count: int, draw: random.Random) -> list[int]:
        """Training samples for a batch: half of the newest, half of the others; each at random, again and
        again where there are fewer than are asked for.

        Raises:
            LearnerError: there is none.
        """
        recent, others = self.numbers(False, True), self.numbers(False, False)
        if not recent and not others:
            raise LearnerError("There is no sample to train on.")
        of_recent = count if not others else 0 if not recent else (count + 1) // 2
        return _pick(recent, of_recent, draw) + _pick(others, count - of_recent, draw)

    def load(self, numbers: Iterable[int]) -> dict[int, Arrays]:
        """Samples by number; those that were deleted meanwhile are left out.

        Raises:
            LearnerError: one of them is damaged.
        """
        wanted = sorted(set(numbers))
        found: dict[int, Arrays] = {}
        for start in range(0, len(wanted), _QUERY_IDS):
            some = wanted[start : start + _QUERY_IDS]
            marks = ",".join("?" * len(some))
            for row in self._database.read(f"SELECT * FROM arrays WHERE sample IN ({marks})", *some):
                found.setdefault(row["sample"], {})[row["name"]] = self._array(row)
        return found

    def _array(self, row: sqlite3.Row) -> np.ndarray:
        try:
            shape = tuple(int(n) for n in row["shape"].split(",") if n)
            if row["dtype"] not in _DTYPES or min(shape, default=0) < 0:
                raise ValueError(f"{row['dtype'][:20]} {list(shape)}")
            array = np.frombuffer(row["data"], row["dtype"])
            if array.size != math.prod(shape):
                raise ValueError(f"{array.size} elements instead of {math.prod(shape)}")
        except (ValueError, TypeError, AttributeError) as e:
            raise LearnerError(
                f"{self._database.path} is damaged: {row['name']!r} of sample {row['sample']} cannot be read "
                f"({e}). Delete that sample, or restore the file from a copy."
            ) from None
        return array.reshape(shape)


def _pick(numbers: list[int], count: int, draw: random.Random) -> list[int]:
    if count <= len(numbers):
        return draw.sample(numbers, count)
    return numbers + draw.choices(numbers, k=count - len(numbers)) if numbers else []
