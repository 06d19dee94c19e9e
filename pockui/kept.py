"""The runs and plans that a study keeps, for pages: read again only after some process changed them."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pockgraph.plan import Plan
from pockgraph.study import Run, Study


class Kept(NamedTuple):
    """What a study keeps: runs, oldest first, and plans by name."""

    runs: tuple[Run, ...] = ()
    plans: Mapping[str, Plan] = MappingProxyType({})

    def run(self, uid: str) -> Run | None:
        return next((run for run in self.runs if run.uid == uid), None)


@dataclass
class _Read:
    """A study that was opened, and what it kept when it was last read."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    study: Study | None = None
    revision: int = -1
    kept: Kept = field(default_factory=Kept)


_READ: dict[tuple[Path, int], _Read] = {}


def read_kept(path: str | os.PathLike[str]) -> Kept:
    """What the study at a path keeps. Runs and plans that cannot be read are left out.

    Raises:
        StudyError: there is no study, or it is damaged.
    """
    where = Path(path).resolve()
    read = _READ.setdefault((where, where.stat().st_ino if where.exists() else 0), _Read())
    with read.lock:
        study = read.study = read.study or Study(where, read_only=True)
        revision = study.kept_revision
        alive = any(run.status == "running" for run in read.kept.runs)  # until its process is gone
        if revision != read.revision or alive:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                read.kept = Kept(tuple(study.runs()), study.plans())
            read.revision = revision
        return read.kept
