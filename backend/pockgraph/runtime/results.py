"""What a step and an evaluation return."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StepResult:
    """What one step says.

    Attributes:
        loss: before the update; NaN for a batch that holds NaN.
        step: how many steps have been taken, this one included.
        duration_ms: wall clock, checking the batch included.
        skipped: the batch, the loss or the update was not finite, and all state is as it was before.
    """

    loss: float
    step: int
    duration_ms: float
    skipped: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation says.

    Attributes:
        metric: the mean of `values`.
        values: `[samples]`, in the order of the data.
        samples: how many.
    """

    metric: float
    values: np.ndarray
    samples: int
