"""Learner: answers, takes corrections one by one, and gets better in the background, or stays as it is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from ...errors import BatchError, LearnerError, reason, require
from ...files import resolved
from ..artifact_files import read_manifest, verify_files
from ..checkpoint import initial_state, load_checkpoint, save_checkpoint
from ..forward_passes import require_predictions
from ..manifest import Manifest
from ..options import checked_seed
from ..predictor import Predictor
from ..trainer import Trainer
from . import journal
from .background import Background
from .budget import LearnerBudget
from .database import Database, set_fact
from .generations import Generation, Generations
from .journal import Event
from .replay import Replay, Rooms
from .rounds import Outcome, Rounds, Work
from .samples import SampleForm
from .settings import LearnerSettings
from .sole_owner import SoleOwner

FILE = "learner.db"
GENERATIONS = "generations"
HELD_OUT_RATIO = 0.2
LONGEST_KEY = 200


class Learner:
    """Learns where it runs, for as long as it runs. Make one with `Learner.open`.

    Answers come from the weights that were promoted last, while others are being trained, and threads may
    share a learner. What it keeps lies in a folder that one process uses at a time; `docs/learning.md` says
    what survives what. `close`, or a `with` block, frees the device.

    Attributes:
        folder: what it keeps; artifact: the artefact that it trains.
        manifest: what that holds; settings, budget: as given.

    Example:
        >>> with Learner.open("out/", "learner/") as learner:
        ...     learner.start()
        ...     learner.predict({"x": x[None]})
        ...     learner.add({"x": x, "y": 3}, key="photo-17")
    """

    def __init__(
        self,
        artifact: Path,
        manifest: Manifest,
        folder: Path,
        settings: LearnerSettings,
        budget: LearnerBudget,
        clock: Callable[[], float],
        load: Mapping[str, Any],
    ) -> None:
        """Use `open`."""
        self.artifact, self.manifest, self.folder = artifact, manifest, folder
        self.settings, self.budget = settings, budget
        self._load = dict(load)
        self._form = SampleForm(manifest, settings.label, settings.shared)
        held = settings.samples(self._form.sample_bytes)
        self._trainer: Trainer | None = None
        self._predictor: Predictor | None = None
        self._rounds: Rounds | None = None
        self._owner = SoleOwner(folder)
        try:
            self._database = Database(folder / FILE)
            facts = self._agreed(self._database.facts())
            ratio = facts["held_out_ratio"]
            rooms = Rooms.of(held, ratio, settings.recent_ratio)
            self._replay = Replay(self._database, rooms, ratio, facts["seed"])
            with self._database.transaction() as write:
                self._replay.settle(write)
            self._generations = Generations(folder / GENERATIONS, self._database, settings.keep_generations)
            current = self._generations.settle(manifest)
            if manifest.predict:
                self._predictor = Predictor.load(artifact, current.path, **self._loading)
        except BaseException:
            self.close()
            raise
        self._background = Background(self._work, budget, self._note, clock)

    @classmethod
    def open(
        cls,
        artifact: str | os.PathLike[str],
        folder: str | os.PathLike[str],
        settings: LearnerSettings | None = None,
        budget: LearnerBudget | None = None,
        *,
        device: str = "CPU",
        threads: int | None = None,
        seed: int = 0,
        allow_native_code: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> Learner:
        """Go on with what a folder holds, or begin with an empty one. Nothing is trained before `start`.

        Args:
            artifact: what `pockgraph.compile` wrote.
            folder: of this learner alone; it is made if it is not there, readable by its owner only.
            device, threads, allow_native_code: as for `Trainer.load`.
            seed: of dropout, and in a new folder of which samples are kept and drawn.
            clock: seconds, growing, by which the budget is kept.

        Raises:
            ArtifactError: as `Trainer.load`.
            LearnerError: the folder belongs to another artefact or is in use, or a setting does not fit.
        """
        place, kept = resolved(artifact), resolved(folder)
        settings, budget = settings or LearnerSettings(), budget or LearnerBudget()
        require(LearnerError, "settings", settings, LearnerSettings, "Pass a LearnerSettings(…).")
        require(LearnerError, "budget", budget, LearnerBudget, "Pass a LearnerBudget(…).")
        manifest = read_manifest(place)
        verify_files(place, manifest)
        try:
            kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as e:
            raise LearnerError(f"Cannot make the folder {kept}: {reason(e)}. Choose another.") from None
        load = {
            "device": device,
            "threads": threads,
            "seed": checked_seed(seed),
            "allow_native_code": allow_native_code,
        }
        return cls(place, manifest, kept, settings, budget, clock, load)

    # ------------------------------------------------------------------ answers and samples

    def predict(self, batch: Any) -> np.ndarray | dict[str, np.ndarray]:
        """What the task predicts of a batch, with the promoted weights; see `Trainer.predict`.

        Training does not make it wait. All of a batch is answered by one generation's weights.

        Raises:
            ArtifactError: the artefact has no prediction, or the learner is closed.
            BatchError: the batch does not fit.
        """
        if self._predictor is None:
            require_predictions(self.artifact, self.manifest)
            raise LearnerError("This Learner was closed. Open it again.")
        return self._predictor.predict(batch)

    def add(self, sample: Any, key: str | None = None) -> str:
        """Accept a labelled sample; one of a known key is a correction, and replaces the earlier one.

        When this returns, the sample is on disk.

        Args:
            sample: a batch without its first dimension: entry -> array.
            key: what it is called, to correct or to delete it, and what decides whether it is held out. By
                default a digest of its inputs, so that the same inputs with another label are a correction.

        Returns:
            The key.

        Raises:
            BatchError: it does not fit, as `Trainer.step` says of a batch, or the key is none.
            LearnerError: it could not be written; nothing has changed.
        """
        arrays = self._form.checked(sample)
        name = self._form.key_of(arrays) if key is None else _checked_key(key)
        with self._database.transaction() as write:
            held_out = self._replay.add(write, name, self._form.class_of(arrays), arrays)
            journal.note(write, "accepted", name, held_out=held_out)
        self._background.wake()
        return name

    def delete(self, key: str) -> bool:
        """Delete a sample, and its key from the journal; False if none of this key is kept.

        What weights have learnt of it stays in them: `revert(0)` goes back to those of the artefact.

        Raises:
            LearnerError: it could not be written.
        """
        name = _checked_key(key)
        with self._database.transaction() as write:
            found = self._replay.delete(write, name)
            journal.forget_key(write, name)
            if found:
                journal.note(write, "deleted")
        self._database.wipe_log()
        return found

    # ------------------------------------------------------------------ training

    def start(self) -> None:
        """Train in the background from here on, within the budget."""
        self._require_open()
        self._background.start()

    def stop(self) -> None:
        """End training in the background, after its present piece of work."""
        self._background.stop()

    def learn(self, rounds: int = 1) -> list[Outcome]:
        """Train now, in this thread, without the budget.

        Args:
            rounds: how many; fewer, when there is nothing more to learn from.

        Returns:
            What came of each.

        Raises:
            LearnerError: it is being trained in the background.
            PockError: as `Trainer.step`; what was promoted before stays.
        """
        self._require_open()
        if self._background.running:
            raise LearnerError("It is learning in the background. Call stop() first.")
        outcomes: list[Outcome] = []
        with self._background.turn:
            while len(outcomes) < rounds and (not outcomes or outcomes[-1] != "waiting"):
                work = self._work()
                try:
                    while True:
                        next(work)
                except StopIteration as done:
                    outcomes.append(done.value)
        return outcomes

    def _work(self) -> Work:
        """One round; the training step is loaded with the first."""
        if self._rounds is None:
            trainer = self._trainer = Trainer.load(self.artifact, **self._load)
            self._rounds = Rounds(
                trainer, self._form, self._database, self._replay, self._generations, self.settings,
                self._answer_with,
            )  # fmt: skip
        return (yield from self._rounds.round())

    def _answer_with(self, generation: Generation) -> None:
        if self._predictor is not None:
            self._predictor.load_checkpoint(generation.path) if generation.path else self._predictor.reset()

    # ------------------------------------------------------------------ what it knows

    def generations(self) -> list[Generation]:
        """The weights that are kept, the artefact's own first; the last answers."""
        return self._generations.all()

    def revert(self, number: int) -> Generation:
        """Answer with the weights of an earlier generation, and go on from them; later ones are dropped.

        Raises:
            LearnerError: it is not kept any more.
        """
        self._require_open()
        with self._background.turn:
            generation = self._generations.revert(number)
            if self._rounds is not None:
                self._rounds.forget()
            self._background.abandon()
            self._answer_with(generation)
        return generation

    def journal(self, last: int = 100) -> list[Event]:
        """The newest events, oldest first."""
        return journal.events(self._database, last)

    def status(self) -> dict[str, Any]:
        """What it holds and does: figures, for people and for logs."""
        current = self._generations.current()
        background = self._background
        return {
            "training": "stopped" if not background.running else background.held_back or "running",
            "failure": background.failure,
            "generation": current.number,
            "step": current.step,
            "metric": current.metric,
            "held_out_samples": self._replay.count(True),
            "training_samples": self._replay.count(False),
            "training_samples_by_class": self._replay.by_class(False),
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the promoted weights as a checkpoint, which `Trainer` and `Predictor` load.

        Raises:
            ArtifactError: the file cannot be written, or something else lies there.
        """
        self._require_open()
        target = resolved(path)
        with self._background.turn:
            current = self._generations.current()
            if current.path is None:
                initial = dict(initial_state(self.artifact, self.manifest))
                save_checkpoint(target, self.manifest, initial, 0, self._load["seed"])
            else:
                held = load_checkpoint(current.path, self.manifest)
                save_checkpoint(target, self.manifest, held.state, held.step, held.seed)
        return target

    def close(self) -> None:
        """End training, and give the device back. Closing twice is no error."""
        for part in ("_background", "_trainer", "_predictor", "_database", "_owner"):
            held = getattr(self, part, None)
            if held is not None:
                held.stop() if isinstance(held, Background) else held.close()
        self._predictor = None
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ------------------------------------------------------------------ helpers

    def _agreed(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The file's facts, which must be of this artefact; those of a new file are written."""
        given = self.settings.held_out_ratio
        mine = {
            "task": self.manifest.task,
            "fingerprint": self.manifest.fingerprint,
            "computation": self.manifest.computation,
            "label": self._form.label,
            "seed": facts.get("seed", self._load["seed"]),
            "held_out_ratio": facts.get("held_out_ratio", HELD_OUT_RATIO) if given is None else given,
        }
        if "fingerprint" not in facts:
            with self._database.transaction() as write:
                for key, value in mine.items():
                    set_fact(write, key, value)
            return facts | mine
        wrong = [key for key, value in mine.items() if facts.get(key) != value]
        if {"fingerprint", "computation"} & set(wrong):
            raise LearnerError(
                f"{self.folder} belongs to another artefact (task {facts.get('task')!r}): its model, plan, "
                f"optimizer or loss is not that of {self.artifact}. Open it with its own, or choose another "
                "folder."
            )
        if wrong:
            said = ", ".join(f"{key} {facts.get(key)!r}, not {mine[key]!r}" for key in wrong)
            raise LearnerError(
                f"{self.folder} was made with {said}. Open it as it was made, or choose another folder."
            )
        return facts

    def _note(self, kind: Any, why: str) -> None:
        with self._database.transaction() as write:
            journal.note(write, kind, **({"reason": why} if why else {}))

    @property
    def _loading(self) -> dict[str, Any]:
        return {k: v for k, v in self._load.items() if k != "seed"}

    def _require_open(self) -> None:
        if getattr(self, "_closed", False):
            raise LearnerError("This Learner was closed. Open it again.")


def _checked_key(key: object) -> str:
    if not isinstance(key, str) or not 0 < len(key) <= LONGEST_KEY or "\0" in key:
        raise BatchError(f"key={str(key)[:40]!r} is no text of 1 to {LONGEST_KEY} characters.")
    try:
        key.encode()
    except UnicodeError:
        raise BatchError(f"key={key[:40]!a} is no text that can be written as UTF-8.") from None
    return key
