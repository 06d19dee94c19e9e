"""The steps of a training, and what is told of them while they are taken."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pockgraph.runtime import Trainer
    from pockgraph.study.recorder import Recorder

EVENT_SECONDS = 0.1  # a page cannot show more often, and a fast step would flood it
LIVE_SHARE = 0.1  # of the time, that evaluations between steps may take
LIVE_SAMPLES = 256  # evaluated between steps: the first of the validation data
LIVE_POINTS = 500  # a curve of more shows no more


class Report(Protocol):
    """Takes an event."""

    def __call__(self, kind: str, **data: Any) -> None: ...


class LiveMetric:
    """The metric on the first validation samples, evaluated between steps as often as costs little.

    The first and the last step are always followed by one; between them so many that they take a tenth of the
    time, and no more than a curve can show.

    Attributes:
        curve: (step, metric) of each evaluation.
    """

    def __init__(
        self, trainer: Trainer, validation: Iterable[Any] | None, report: Report, steps: int
    ) -> None:
        """Args:
        validation: batches; None evaluates nothing.
        steps: how many are taken.
        """
        self.curve: list[tuple[int, float]] = []
        self._trainer, self._validation, self._report = trainer, validation, report
        count = trainer.manifest.eval.outputs[0].shape[0] if validation is not None else 1
        self._batches = math.ceil(LIVE_SAMPLES / max(1, count))
        self._apart = max(1, steps // LIVE_POINTS)  # steps
        self._due_s = -math.inf

    def after_step(self, last: bool) -> bool:
        """Evaluate if it is time to; returns whether it was.

        Args:
            last: no other step follows.
        """
        if self._validation is None:
            return False
        step, start = self._trainer.steps, time.perf_counter()
        known = self.curve[-1][0] if self.curve else -math.inf
        if step == known or not (last or (start >= self._due_s and step - known >= self._apart)):
            return False
        found = self._trainer.evaluate(itertools.islice(self._validation, self._batches))
        self.curve.append((step, found.metric))
        now = time.perf_counter()
        self._due_s = now + (now - start) * (1 / LIVE_SHARE - 1)
        self._report("validation", step=step, value=found.metric, samples=found.samples)
        return True


def take_steps(
    trainer: Trainer,
    batches: Iterable[Mapping[str, Any]],
    until: int,
    lr: float | None,
    kept: Recorder,
    report: Report,
    live: LiveMetric,
    stopped: Callable[[], bool],
) -> list[list[float]]:
    """Train up to a step, and report speed, memory and the time left.

    Args:
        batches: of all steps from the first on: the step's number picks its batch.
        until: the number of the last step.
        lr: learning rate; None takes the optimizer's.
        stopped: asked before each step; True ends it.

    Returns:
        [step, loss] of each step.
    """
    losses: list[list[float]] = []
    began_at = trainer.steps
    speed = Speed(trainer)
    live.after_step(last=False)
    kept.starts()
    speed.pause()
    start = shown = time.perf_counter()
    for batch in itertools.islice(batches, began_at, None):
        if trainer.steps >= until or stopped():
            break
        result = trainer.step(batch, lr)
        losses.append([result.step, result.loss])
        kept.step(result.loss, result.duration_ms)
        speed.step()
        now = time.perf_counter()
        if result.step >= until or len(losses) == 1 or now - shown >= EVENT_SECONDS:
            shown = now
            left_s = (now - start) / len(losses) * (until - result.step)
            report("loss", step=result.step, loss=result.loss, left_s=left_s, **speed.figures())
        if live.after_step(last=result.step >= until):
            kept.starts()
            speed.pause()
    return losses


class Speed:
    """How fast steps are taken, their batches made included and evaluations between them not."""

    def __init__(self, trainer: Trainer) -> None:
        self._samples = next((spec.shape[0] for spec in trainer.manifest.batch.values() if spec.shape), 1)
        self._steps, self._trained_s, self._mark = 0, 0.0, time.perf_counter()

    def step(self) -> None:
        """A step was taken."""
        now = time.perf_counter()
        self._trained_s += now - self._mark
        self._mark, self._steps = now, self._steps + 1

    def pause(self) -> None:
        """What was done since the last step is none of its time."""
        self._mark = time.perf_counter()

    def figures(self) -> dict[str, float | None]:
        """The mean of the steps since it was last asked, and the memory of this process now."""
        from pockgraph.runtime.process_memory import resident_bytes

        each_s = self._trained_s / max(1, self._steps)
        self._steps, self._trained_s = 0, 0.0
        return {
            "step_ms": each_s * 1e3,
            "samples_per_s": self._samples / each_s if each_s else None,
            "memory_bytes": resident_bytes(trimmed=False),
        }
