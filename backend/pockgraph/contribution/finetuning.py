"""Fine-tune one plan after another on one task, which is how contribution is measured.

Two backends give the same numbers to rounding. `EagerBackend` runs the pruned graph in this process, with
the activations before the trained tensors cached (`activation_cache.py`): ready in a fraction of a second.
`CompiledBackend` compiles every plan for a target, which takes seconds and pays when a plan takes many
steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ..errors import NonFiniteLoss
from ..plan import Plan
from .gains import Measurement


class Finetuner(Protocol):
    """One plan, ready to be trained again and again."""

    plan: Plan

    def reset(self, fresh: Mapping[str, torch.Tensor]) -> None:
        """Back to the initial weights, with other values for some trained tensors."""
        ...

    def train(self, seed: int, lr: float) -> Iterator[float]:
        """Take a step on each of the seed's batches; yields the loss before it."""
        ...

    def evaluate(self) -> Iterator[np.ndarray]:
        """The metric of each sample, one array for each validation batch."""
        ...

    def close(self) -> None: ...


class FinetuningBackend(Protocol):
    """Prepares plans of one task."""

    target: str

    def prepare(self, plan: Plan) -> Finetuner: ...


@dataclass(frozen=True)
class Outcome:
    """What fine-tuning a plan led to.

    Attributes:
        metric: mean over the validation samples, after the last step.
        loss: mean training loss of the last quarter of the steps, each before its update.
    """

    metric: float
    loss: float


def finetune(
    tuner: Finetuner,
    fresh: Mapping[str, torch.Tensor],
    seed: int,
    lr: float,
    tick: Callable[[], None],
    steps: int | None = None,
) -> Outcome:
    """Train from the initial weights and evaluate.

    Args:
        steps: take only the first so many.
        tick: called after every step and every validation batch; it may raise to stop.

    Raises:
        NonFiniteLoss: the loss, or the metric, became NaN or infinite.
    """
    tuner.reset(fresh)
    losses = []
    for loss in itertools.islice(tuner.train(seed, lr), steps):
        if not math.isfinite(loss):
            raise NonFiniteLoss(f"The loss became {loss} in step {len(losses) + 1} at lr {lr:g}.")
        losses.append(loss)
        tick()
    values = []
    for value in tuner.evaluate():
        values.append(value)
        tick()
    metric = float(np.concatenate(values).mean(dtype=np.float64))
    if not math.isfinite(metric):
        raise NonFiniteLoss(f"The metric became {metric} after {len(losses)} steps at lr {lr:g}.")
    last = losses[-max(1, len(losses) // 4) :]
    return Outcome(metric, sum(last) / len(last))


def why_diverged(measured: Iterable[Measurement]) -> str:
    """What that of the lowest rate said, and what helps, of measurements that all diverged."""
    said = min(measured, key=lambda m: m.lr or 0.0).error
    return (
        f"{said} Where it is the loss that became NaN or infinite, pass a lower lr; where it is the metric "
        "alone, mend the task's: a mean over no samples is NaN, for one."
    )
