"""The studies of a folder, as a list to choose from."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pockgraph.errors import StudyError
from pockgraph.study import Study

from .studies import changed_s

STUDIES_MAX = 50


class StudyEntry(NamedTuple):
    """A study as a line of a list.

    Attributes:
        note: how far it is, or why it cannot be opened.
        is_measured: whether there is something to show.
    """

    path: Path
    task: str
    note: str
    changed: str
    is_measured: bool


def study_entries(found: Iterable[Path]) -> list[StudyEntry]:
    """What a list says of each study."""
    return [_entry(path) for path in list(found)[:STUDIES_MAX]]


def _entry(path: Path) -> StudyEntry:
    try:
        changed = time.strftime("%d %b %H:%M", time.localtime(changed_s(path))).lstrip("0")
        with Study(path, read_only=True) as study:
            done, planned = study.progress()
            runs = len(study.runs())
            name = study.name
    except (StudyError, OSError):
        return StudyEntry(path, "", "cannot be read", "", False)
    note = "measured" if done == planned else f"{done} of {planned} measured"
    note = note if done else "nothing measured yet"
    if runs:
        note += f", {runs} run{'s' * (runs > 1)}"
    return StudyEntry(path, name, note, changed, bool(done))
