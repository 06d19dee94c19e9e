"""Rounds: from the weights that answer to better ones, or back; a piece of work at a time.

A round scores what arrived, trains for some steps, judges on held-out samples, and goes on until the new
weights are promoted or rolled back.
"""

from __future__ import annotations

import functools
import math
import random
import statistics
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from ...errors import BatchError, LearnerError
from ..results import StepResult
from ..trainer import Trainer
from . import journal
from .database import Database
from .generations import Generation, Generations
from .judgement import DRIFT_BEFORE, DRIFT_RECENT, Judgement, drift, judge
from .replay import Replay
from .samples import Arrays, SampleForm
from .settings import LearnerSettings

Outcome = Literal["promoted", "rolled back", "waiting"]
Work = Generator[None, None, Outcome]  # yields after each piece of work


class Rounds:
    """Trains one learner.

    Args:
        promoted: told of each generation that answers from then on.
    """

    def __init__(
        self,
        trainer: Trainer,
        form: SampleForm,
        database: Database,
        replay: Replay,
        generations: Generations,
        settings: LearnerSettings,
        promoted: Callable[[Generation], None],
    ) -> None:
        self._trainer, self._form, self._database, self._replay = trainer, form, database, replay
        self._generations, self._settings, self._promoted = generations, settings, promoted
        self._at: int | None = None  # the generation whose weights the trainer holds; None: others
        self._known: tuple[int, dict[int, float]] = (-1, {})  # a generation's metric, by held-out sample
        self._settled_at: int | None = None  # the newest sample when training had nothing more to gain
        self._waits_for = ""

    def round(self) -> Work:
        """One round, in pieces; closing it in the middle leaves what is promoted as it is."""
        generation = self._go_back()
        yield from self._score_arrivals()
        newest = self._replay.newest()
        if why := self._nothing_to_do(newest):
            self._wait(why)
            return "waiting"
        self._waits_for = ""
        draw = random.Random(f"{self._replay.seed}:{journal.newest(self._database)}")  # others each round
        before = yield from self._held_out(generation)
        self._at = None
        judgement = None
        for _ in range(self._settings.attempts):
            loss = yield from self._train(draw)
            after = yield from self._metric(list(before))
            judgement = judge([before[n] for n in after], list(after.values()), self._margin(len(after)))
            self._note("trained", step=self._trainer.steps, loss=loss, **asdict(judgement))
            if judgement.better and loss is not None:
                self._promote(judgement, after)
                # Without a gain, more of the same would only wear the memory that it is written to.
                self._settled_at = newest if judgement.gain <= 0 else None
                return "promoted"
            if loss is None:  # each step was skipped, so that more of them would be, too
                break
        assert judgement is not None
        self._note(
            "rolled back", generation=generation.number, metric_before=judgement.before,
            metric=judgement.after, noise=judgement.noise, held_out_samples=judgement.samples,
        )  # fmt: skip
        self._go_back()
        self._settled_at = newest
        return "rolled back"

    def forget(self) -> None:
        """Other weights answer now: begin with them, whether something arrived or not."""
        self._at = self._settled_at = None

    # ------------------------------------------------------------------ pieces

    def _go_back(self) -> Generation:
        """Have the trainer hold the weights that answer."""
        current = self._generations.current()
        if self._at != current.number:
            if current.path is None:
                self._trainer.reset()
            else:
                self._trainer.load_checkpoint(current.path)
            self._at = current.number
        return current

    def _nothing_to_do(self, newest: int) -> str:
        held_out = self._replay.count(True)
        if self._judged_by(held_out) < self._least_held_out:
            return f"{self._least_held_out} held-out samples are needed, and there are {held_out}"
        if not self._replay.count(False):
            return "there is no sample to train on"
        return "nothing new to learn from" if newest == self._settled_at else ""

    @property
    def _least_held_out(self) -> int:
        return max(self._settings.min_held_out, 2, self._judged_by(self._form.batch_samples))

    def _margin(self, held_out: int) -> float:
        return self._settings.margin if held_out < self._settings.enough_held_out else 0.0

    def _judged_by(self, samples: int) -> int:
        """How many of so many samples are evaluated: whole batches only, where a metric is of a batch."""
        whole = 1 if self._trainer.manifest.samples_apart else self._form.batch_samples
        return samples // whole * whole

    def _train(self, draw: random.Random) -> Generator[None, None, float | None]:
        """The mean loss of some steps; None if all were skipped."""
        losses = []
        for _ in range(self._settings.round_steps):
            numbers = self._replay.draw(self._form.batch_samples, draw)
            samples = self._replay.load(numbers)
            present = [samples[n] for n in numbers if n in samples]
            if not present:
                raise LearnerError("All samples were deleted while they were trained on.")
            filled = present + draw.choices(present, k=len(numbers) - len(present))
            with self._dropping_refused(samples, self._step):
                result = self._step(self._form.batch(filled))
            if not result.skipped:
                losses.append(result.loss)
            yield
        return statistics.fmean(losses) if losses else None

    def _held_out(self, generation: Generation) -> Generator[None, None, dict[int, float]]:
        """The metric of the weights that answer, by held-out sample; what is known is not computed again."""
        known = self._known[1] if self._known[0] == generation.number else {}
        numbers = self._replay.numbers(True)
        if self._trainer.manifest.samples_apart:
            fresh = yield from self._metric([n for n in numbers if n not in known])
            found = {n: v for n in numbers if (v := fresh.get(n, known.get(n))) is not None}
        else:
            found = yield from self._metric(numbers)
        if len(found) < self._least_held_out:
            raise LearnerError("Held-out samples were deleted while they were evaluated.")
        self._known = (generation.number, found)
        return dict(found)

    def _metric(self, numbers: Iterable[int]) -> Generator[None, None, dict[int, float]]:
        """The metric of the trainer's weights, by sample; those that were deleted are left out."""
        wanted, size = list(numbers), self._form.batch_samples
        found: dict[int, float] = {}
        for start in range(0, len(wanted), size):
            samples = self._replay.load(wanted[start : start + size])
            if self._judged_by(len(samples)):
                with self._dropping_refused(samples, self._values):
                    values = self._values(self._form.batch(list(samples.values())))
                found.update(zip(samples, values))
                yield
        return found

    def _step(self, batch: Arrays) -> StepResult:
        return self._trainer.step(batch, self._settings.lr, on_nonfinite="skip")

    def _values(self, batch: Arrays) -> list[float]:
        """The metric of each sample of a batch."""
        return np.asarray(self._trainer.evaluate([batch]).values, np.float64).tolist()

    @contextmanager
    def _dropping_refused(
        self, samples: Mapping[int, Arrays], run: Callable[[Arrays], object]
    ) -> Iterator[None]:
        """When a batch is refused, delete those of its samples that are refused alone, too: an index that
        the graph computes is checked there only, and such a sample would end every round.
        """
        try:
            yield
        except BatchError:
            for number, sample in samples.items():
                try:
                    run(self._form.batch([sample] * self._form.batch_samples))
                except BatchError as e:
                    with self._database.transaction() as write:
                        self._replay.refuse(write, number, str(e))
            raise

    def _promote(self, judgement: Judgement, after: dict[int, float]) -> None:
        save = functools.partial(self._trainer.save, note=False)  # a generation's file comes and goes
        generation = self._generations.promote(save, self._trainer.steps, judgement)
        self._at, self._known = generation.number, (generation.number, after)
        self._promoted(generation)

    # ------------------------------------------------------------------ arriving samples

    def _score_arrivals(self) -> Generator[None, None, None]:
        """The metric of what arrived since, by the weights that answer, before any of it is trained on."""
        rows = self._database.read("SELECT id FROM samples WHERE NOT scored ORDER BY id")
        numbers = [r[0] for r in rows]
        size = self._form.batch_samples
        for start in range(0, len(numbers), size):
            some = numbers[start : start + size]
            values = yield from self._metric(some)
            with self._database.transaction() as write:
                marked = some if self._judged_by(len(some)) else []
                write.executemany("UPDATE samples SET scored = 1 WHERE id = ?", [(n,) for n in marked])
                finite = [(v,) for v in values.values() if math.isfinite(v)]
                write.executemany("INSERT INTO scores (value) VALUES (?)", finite)
                write.execute(
                    "DELETE FROM scores WHERE id <= (SELECT max(id) FROM scores) - ?",
                    (DRIFT_RECENT + DRIFT_BEFORE,),
                )
                scores = [r[0] for r in write.execute("SELECT value FROM scores ORDER BY id")]
                if found := drift(scores):
                    journal.note(write, "drift", **asdict(found))
                    write.execute("DELETE FROM scores")  # what comes next is compared with the new state

    def _wait(self, why: str) -> None:
        if why != self._waits_for:
            self._note("waiting", reason=why)
        self._waits_for = why

    def _note(self, kind: journal.Kind, **facts: Any) -> None:
        with self._database.transaction() as write:
            journal.note(write, kind, **facts)
