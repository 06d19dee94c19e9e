"""Keep a run in a study while it is trained: the one way by which trainings of every face land there.

What was trained so far is written every few seconds, so that a run that is killed leaves its losses. A study
that cannot be written is told once, and never ends a training.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import PockError, StudyError
from .kept_records import KeptRecords
from .records import Run

SAVE_S = 5.0


class Recorder:
    """A run that is being trained.

    Attributes:
        run: as it is now; with an id once the study has it.
    """

    def __init__(self, study: KeptRecords | None, run: Run, tell: Callable[[str], None]) -> None:
        """Begin; see `recorded`."""
        self._study, self._tell = study, tell
        self._losses: list[float] = list(run.losses)
        self._times_ms: list[float] = []
        self._trained_s = 0.0
        self._mark = self._saved = time.perf_counter()
        self.run = dataclasses.replace(run, status="running")
        self._write(lambda kept: kept.add_run(self.run))

    def step(self, loss: float, duration_ms: float | None = None) -> None:
        """Note a step that was taken.

        Args:
            duration_ms: what the step took; None: the time since the last one.
        """
        now = time.perf_counter()
        self._losses.append(loss)
        self._times_ms.append((now - self._mark) * 1e3 if duration_ms is None else duration_ms)
        self._trained_s += now - self._mark
        self._mark = now
        if now - self._saved > SAVE_S:
            self.note()

    def starts(self) -> None:
        """The first step begins: what came before, such as an evaluation, is no part of the training."""
        self._mark = time.perf_counter()

    def note(self, **figures: Any) -> None:
        """Change fields of the run, and write it with all steps so far."""
        times = self._times_ms
        trained = {
            "losses": tuple(self._losses),
            "steps": len(self._losses),
            "step_ms": statistics.median(times) if times else None,
            "duration_s": self._trained_s if times else None,
        }
        self.run = dataclasses.replace(self.run, **trained | figures)
        self._write(lambda kept: kept.update_run(self.run) or self.run)

    def _write(self, how: Callable[[KeptRecords], Run]) -> None:
        if self._study is None:
            return
        try:
            self.run = how(self._study)
            self._saved = time.perf_counter()
        except StudyError as e:
            self._study = None
            self._tell(f"This run is not kept: {e}")


@contextmanager
def recorded(
    study: KeptRecords | None, run: Run, tell: Callable[[str], None] = warnings.warn
) -> Iterator[Recorder]:
    """Keep `run` in `study` from its beginning to its end, however it ends.

    Args:
        study: None keeps nothing, so that callers need not tell the cases apart.
        run: what is known beforehand; `Recorder.step` and `note` add the rest.
        tell: called once when the study cannot be written.

    An error ends it as `"failed"` with the error's words, Ctrl-C as `"cancelled"`; else it is `"done"`,
    unless the block has noted another status.
    """
    recorder = Recorder(study, run, tell)
    try:
        yield recorder
    except BaseException as e:
        if recorder.run.status == "running" and not isinstance(e, Exception):
            recorder.note(status="cancelled")
        elif recorder.run.status == "running":
            words = str(e) if isinstance(e, PockError) else f"{type(e).__name__}: {e}"
            recorder.note(status="failed", error=words)
        raise
    if recorder.run.status == "running":
        recorder.note(status="done")
