"""The file of a study: what it says of its task, and what was read from it and is still so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from ..errors import StudyError, listing
from ..store.store import Store
from .records import TaskFacts

T = TypeVar("T")


class StudyFile:
    """What `Study` is as a file.

    Attributes:
        path: the file; facts: what it says of its task.
        name: the task's. reference: `module:name` that makes the task, or empty.
    """

    path: Path
    facts: Mapping[str, Any]
    _store: Store

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._cache: dict[str, tuple[Any, Any]] = {}

    @property
    def name(self) -> str:
        return self.facts["name"]

    @property
    def reference(self) -> str:
        return self.facts["reference"]

    @property
    def fingerprint(self) -> str:
        """Of the model and the batch, see `TrainGraph.fingerprint`."""
        return self.facts["fingerprint"]

    @property
    def schema_version(self) -> int:
        """Of the file's tables."""
        return self._store.read("PRAGMA user_version")[0][0]

    def documents(self) -> dict[str, int]:
        """Name -> bytes of what is kept as a whole: `"profile"`, and the profiles of devices."""
        rows = self._store.read("SELECT name, length(CAST(json AS BLOB)) FROM documents ORDER BY name")
        return dict(map(tuple, rows))

    def nbytes(self) -> int:
        """Of the file, and of the newest changes that lie beside it."""
        files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        return sum(f.stat().st_size for f in files if f.exists())

    def check_writable(self) -> None:
        """
        Raises:
            StudyError: the study can only be read.
        """
        self._store.check_writable()

    def close(self) -> None:
        """Release the file."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _checked_facts(self) -> Mapping[str, Any]:
        facts = self._store.facts()
        try:
            TaskFacts.model_validate(facts)
        except ValidationError as e:
            self._store.close()
            what = listing([".".join(map(str, error["loc"])) for error in e.errors()])
            raise StudyError(
                f"The study {self.path} is damaged: what it says of its task is not complete ({what}). "
                "Restore it from a copy."
            ) from None
        return facts

    def _cached(self, name: str, load: Callable[[], T], key: str = "") -> T:
        """`load()`, called again only after some process changed what it reads.

        Args:
            name: the revision of that. key: of the result, where several are read from it.
        """
        revision, key = self._store.revision(name), key or name
        with self._lock:
            if key not in self._cache or self._cache[key][0] != revision:
                self._cache[key] = (revision, load())
            return self._cache[key][1]
