"""The demo's training runs: the same batches, heads, steps and schedule for every method and runtime."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from pockgraph.contribution.data import fresh_values
from pockgraph.errors import NonFiniteLoss
from pockgraph.runtime import Trainer
from pockgraph.study import Run, Study
from pockgraph.study.recorder import Recorder, recorded
from pockgraph.task import Task
from pockgraph.task.batch import Batch

from ..eager import PlainLoop

Head = dict[str, np.ndarray]  # FQN -> initial value of a fresh tensor
TICK_STEPS = 10


class Learner(Protocol):
    """One method on one runtime."""

    def reset(self, head: Head) -> None:
        """Back to the pretrained weights, with this head."""
        ...

    def step(self, batch: Batch, lr: float) -> float:
        """One update; returns the loss before it."""
        ...

    def evaluate(self, batches: Sequence[Any]) -> float: ...


class CompiledLearner:
    """An artefact."""

    def __init__(self, artifact: Path, threads: int) -> None:
        self._trainer = Trainer.load(artifact, threads=threads)

    def reset(self, head: Head) -> None:
        self._trainer.reset(head)

    def step(self, batch: Batch, lr: float) -> float:
        return self._trainer.step(batch, lr).loss

    def evaluate(self, batches: Sequence[Any]) -> float:
        return self._trainer.evaluate(batches).metric

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        self._trainer.save(path)


class EagerLearner:
    """The plain PyTorch loop.

    Args:
        task: one's own: its weights change.
        trained: FQNs of the tensors that learn.
        optimizer: as in a plan.
    """

    def __init__(self, task: Task, trained: Sequence[str], optimizer: Mapping[str, Any]) -> None:
        self._task, self._trained, self._optimizer = task, trained, optimizer
        self._initial = {k: v.clone() for k, v in task.model.state_dict().items()}

    def reset(self, head: Head) -> None:
        fresh = {fqn: torch.from_numpy(value) for fqn, value in head.items()}
        self._task.model.load_state_dict(self._initial | fresh)
        self._loop = PlainLoop(self._task, self._trained, self._optimizer)

    def step(self, batch: Batch, lr: float) -> float:
        return self._loop.step(batch, lr)

    def evaluate(self, batches: Sequence[Any]) -> float:
        return self._loop.evaluate(batches)


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        metric: None when training diverged.
        losses: of each step, before its update.
    """

    metric: float | None
    losses: tuple[float, ...]


@dataclass
class TrainingHarness:
    """Trains learners under equal conditions.

    Attributes:
        task: whose batches they get; its model is not touched.
        heads: seed -> the head that every learner starts from.
        tick: called with (steps done, note) now and then.
        study: keeps every run.
    """

    task: Task
    heads: Mapping[int, Head]
    tick: Callable[[int, str], None]
    study: Study | None = None
    _before: dict[int, float] = field(default_factory=dict, init=False)  # seed -> metric of its fresh head
    done: int = field(default=0, init=False)

    def train(
        self,
        learner: Learner,
        run: Run,
        steps: int,
        validation: Sequence[Any],
        test: Sequence[Any] | None = None,
    ) -> tuple[Outcome, Run]:
        """Reset, train on the batches that `run.seed` draws, evaluate.

        Args:
            run: what is known of it; `run.lr` is where the schedule starts.
            test: None judges by the validation batches.

        Returns:
            What came out, and the run as the study keeps it.
        """
        assert run.lr is not None
        with recorded(self.study, run) as kept:
            if not self._train(learner, run.seed, run.lr, steps, validation, kept):
                kept.note(status="failed", error="Training diverged.")
                return Outcome(None, kept.run.losses), kept.run
            metric = learner.evaluate(validation)
            kept.note(validation_metric=metric)
            if test is not None:
                metric = learner.evaluate(test)
                kept.note(metric=metric)
        return Outcome(metric, kept.run.losses), kept.run

    def _train(
        self, learner: Learner, seed: int, lr: float, steps: int, validation: Sequence[Any], kept: Recorder
    ) -> bool:
        """Whether it ended with finite losses."""
        learner.reset(self.heads[seed])
        if seed not in self._before:  # the same for every learner
            self._before[seed] = learner.evaluate(validation)
        kept.note(validation_baseline=self._before[seed])
        before, self.done = self.done, self.done + steps
        kept.starts()
        for i, batch in enumerate(itertools.islice(self.task.forever(seed), steps)):
            if i % TICK_STEPS == 0:
                self.tick(before + i, kept.run.name)
            try:
                loss = learner.step(batch, cosine(lr, i, steps))
            except NonFiniteLoss:
                return False
            kept.step(loss)
            if not math.isfinite(loss):
                return False
        return True


def cosine(lr: float, step: int, steps: int) -> float:
    """The learning rate of a step: from `lr` down to zero along half a cosine."""
    return lr * 0.5 * (1 + math.cos(math.pi * step / steps))


def fresh_head(task: Task, seed: int) -> Head:
    """Initial values of the task's fresh tensors, drawn as contribution measurements draw them."""
    return {fqn: value.numpy() for fqn, value in fresh_values(task, seed).items()}
