"""What was found, a line of JSON each: what is there is not made again."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of a log; a last line that a kill cut off is none."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


class Log:
    """A log that is written to, by one process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows = read(path)

    def add(self, **row: Any) -> Row:
        """Keep a row, and return it: on disk by then."""
        line = json.dumps(row)
        with self._path.open("a+b") as file:
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = "\n" + line  # behind what a kill cut off
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(json.loads(line))
        return self.rows[-1]

    def find(self, **what: Any) -> Row | None:
        """The last row with these values."""
        wanted = json.loads(json.dumps(what))
        return next((r for r in reversed(self.rows) if all(r.get(k) == v for k, v in wanted.items())), None)


@contextmanager
def opened(path: Path) -> Iterator[Log]:
    """The log of this process alone.

    Raises:
        BlockingIOError: another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield Log(path)
