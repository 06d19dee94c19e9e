"""Generations: the weights that were promoted, as checkpoints; the newest of them answers.

A checkpoint is written whole before the row that names it, in one transaction with the event. A kill in
between leaves a file without a row, which the next start removes.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import ArtifactError, LearnerError
from ...files import sweep
from ..checkpoint import load_checkpoint
from ..manifest import Manifest
from . import journal
from .database import Database
from .judgement import Judgement


@dataclass(frozen=True)
class Generation:
    """Weights that were promoted.

    Attributes:
        number: counts on; 0 are the artefact's own.
        at: seconds since 1970; step: of the trainer.
        metric: on the held-out samples when it was promoted; held_out_samples: how many these were.
        path: the checkpoint; None for the artefact's own weights.
    """

    number: int
    at: float
    step: int
    metric: float | None
    held_out_samples: int
    path: Path | None


INITIAL = Generation(0, 0.0, 0, None, 0, None)


class Generations:
    """The promoted weights in a learner's folder.

    Args:
        keep: how many are kept.
    """

    def __init__(self, folder: Path, database: Database, keep: int) -> None:
        self._folder, self._database, self._keep = folder, database, keep
        folder.mkdir(mode=0o700, exist_ok=True)
        sweep(folder)
        self._remove_others()

    def all(self) -> list[Generation]:
        """Those that are kept, the newest last, the artefact's own first."""
        rows = self._database.read("SELECT * FROM generations WHERE NOT damaged ORDER BY number")
        found = [
            Generation(
                r["number"], r["at"], r["step"], r["metric"], r["held_out_samples"], self._folder / r["file"]
            )
            for r in rows
        ]
        return [INITIAL, *found]

    def current(self) -> Generation:
        return self.all()[-1]

    def settle(self, manifest: Manifest) -> Generation:
        """The newest one whose file is whole; those that are not are marked, and an event says so."""
        while (newest := self.current()).path is not None:
            try:
                load_checkpoint(newest.path, manifest)
                break
            except ArtifactError as e:
                with self._database.transaction() as write:
                    write.execute("UPDATE generations SET damaged = 1 WHERE number = ?", (newest.number,))
                    journal.note(write, "damaged", generation=newest.number, reason=str(e))
        return newest

    def promote(self, save: Callable[[Path], object], step: int, judgement: Judgement) -> Generation:
        """Keep new weights, which answer from here on.

        Args:
            save: writes a checkpoint, whole or not at all.

        Raises:
            PockError: it cannot be written; what answered before still does.
        """
        path = self._folder / f"{step}-{secrets.token_hex(4)}.safetensors"
        save(path)
        with self._database.transaction() as write:
            number = write.execute(
                "INSERT INTO generations (at, file, step, metric, held_out_samples) VALUES (?, ?, ?, ?, ?)",
                (time.time(), path.name, step, judgement.after, judgement.samples),
            ).lastrowid
            journal.note(
                write, "promoted", generation=number, step=step, metric_before=judgement.before,
                metric=judgement.after, noise=judgement.noise, held_out_samples=judgement.samples,
            )  # fmt: skip
            write.execute("DELETE FROM generations WHERE number <= ?", ((number or 0) - self._keep,))
        self._remove_others()
        return self.current()

    def revert(self, number: int) -> Generation:
        """Drop all that were promoted after this one.

        Raises:
            LearnerError: it is not kept any more.
        """
        known = [g.number for g in self.all()]
        if number not in known:
            raise LearnerError(f"There is no generation {number!r}. Those that are kept: {known}.")
        with self._database.transaction() as write:
            write.execute("DELETE FROM generations WHERE number > ?", (number,))
            journal.note(write, "reverted", generation=number)
        self._remove_others()
        return self.current()

    def _remove_others(self) -> None:
        """Remove the files that no row names."""
        named = {row["file"] for row in self._database.read("SELECT file FROM generations")}
        for path in self._folder.glob("*.safetensors"):
            if path.name not in named:
                with suppress(OSError):  # the next start tries again
                    path.unlink()
