"""Measure in another process: it makes task and graph by itself, and keeps them for the next job."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import PockError, StudyError, listing
from ..foreign_exceptions import explain
from ..optimizer import optimizer_from_dict
from ..task.reference import load
from ..train_graph.builder import build
from ..version import __version__
from .candidates import Settings
from .data import with_validation
from .measuring import Job, Measurer, Taken


class NotComparable(StudyError):
    """What a worker would measure could not be compared with the rest."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """What a process needs to measure as this one would; plain values.

    Attributes:
        reference: `module:name` of the task.
        threads: that a worker computes with; None leaves it as it is.
        marks: of the task here, see `Measurer.marks`.
        number: of this analysis among all; jobs of another one need another measurer.
    """

    number: str
    reference: str
    optimizer: Mapping[str, Any]
    settings: Settings
    target: str
    threads: int | None
    marks: Mapping[str, str]
    versions: tuple[str, str]

    def __call__(self, job: Job) -> list[Taken]:
        """Take a job's measurements, in the process where this is called.

        Raises:
            NotComparable: the task cannot be made here, or is not the same.
            PockError: the head alone cannot be measured; or the task's own code failed.
        """
        with _lock:
            try:
                return self._measurer().take(job, self.target, lambda: None)
            except PockError:
                raise
            except Exception as e:
                raise StudyError(f"{_here()}: {explain(e, 'workers=1')[0]}") from e

    def _measurer(self) -> Measurer:
        if _made.get("number") != self.number:
            _made.clear()
            _made["measurer"] = self._make()
            _made["number"] = self.number
        return _made["measurer"]

    def _make(self) -> Measurer:
        if self.versions != versions():
            here, there = (f"pockui {p} and torch {t}" for p, t in (versions(), self.versions))
            raise NotComparable(f"{_here()} has {here}; the analysis runs with {there}. Install the same.")
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            task = with_validation(load(self.reference))
            graph = build(task, optimizer_from_dict(dict(self.optimizer)))
        except PockError as e:
            raise NotComparable(f"{_here()} cannot make the task {self.reference}. {e}") from e
        measurer = Measurer(task, graph, self.settings, torch.get_num_threads())
        differing = [name for name, mark in self.marks.items() if mark and measurer.marks[name] != mark]
        if differing:
            raise NotComparable(
                f"{_here()} made the task {self.reference} anew, and it differs in its {listing(differing)}. "
                "What is measured there would not compare. Seed all that it draws, and give its function "
                "nothing but defaults; or take workers=1."
            )
        return measurer


def versions() -> tuple[str, str]:
    """What numbers depend on: ours, and torch."""
    return __version__, torch.__version__


def _here() -> str:
    return f"Worker process {os.getpid()} on {socket.gethostname()}"


_made: dict[str, Any] = {}  # the measurer of this process, and the analysis that it is for
_lock = threading.Lock()  # a worker of Dask may have several threads
