"""Who may change a learner's folder: one process at a time, as long as it lives."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ...errors import LearnerError, reason

FILE = "lock"


class SoleOwner:
    """Holds a learner's folder. The lock is the operating system's, and goes with the process.

    Raises:
        LearnerError: another one holds it.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._held = sqlite3.connect(
                folder / FILE, timeout=0, isolation_level=None, check_same_thread=False
            )
            self._held.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as e:
            if "locked" in str(e):
                raise LearnerError(
                    f"{folder} is in use by another learner, here or in another process. Close that one, or "
                    "choose another folder."
                ) from None
            raise LearnerError(f"Cannot use {folder}: {reason(e)}. Choose another folder.") from e

    def close(self) -> None:
        self._held.close()
