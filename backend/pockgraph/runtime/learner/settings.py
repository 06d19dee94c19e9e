"""LearnerSettings: what a learner keeps, and how it trains and judges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import LearnerError

_LEAST = {
    "max_samples": 8, "max_bytes": 1, "round_steps": 1, "attempts": 1, "min_held_out": 2,
    "enough_held_out": 0,
    "keep_generations": 1,
}  # fmt: skip


@dataclass(frozen=True)
class LearnerSettings:
    """What a learner keeps, and how it trains and judges.

    Attributes:
        label: the batch entry that holds a sample's class; None takes the only one that is a single integer
            a sample. Where there is none, samples are kept by age and chance alone.
        shared: the entries of a batch that have no row for each sample, the same for all.
        max_samples: how many samples are kept at most, held-out ones included.
        max_bytes: of the arrays of all of them together.
        held_out_ratio: the share of keys that is never trained on. It belongs to the folder: None takes what
            that was made with, 0.2 for a new one.
        recent_ratio: the share of the room that belongs to the newest samples.
        lr: the learning rate; None takes the optimizer's.
        round_steps: training steps between two judgements.
        attempts: how many times new weights that are not better yet are trained on and judged, before they
            are rolled back.
        margin: by how many standard errors the held-out metric must rise, see `judgement.judge`, while
            there are fewer than `enough_held_out` held-out samples; from there on it must not fall.
        min_held_out: without so many held-out samples nothing is trained.
        keep_generations: how many promoted weights are kept on disk, the present ones included.

    Raises:
        LearnerError: one of them is out of bounds.
    """

    label: str | None = None
    shared: Mapping[str, Any] = field(default_factory=dict)
    max_samples: int = 2000
    max_bytes: int | None = None
    held_out_ratio: float | None = None
    recent_ratio: float = 0.25
    lr: float | None = None
    round_steps: int = 50
    attempts: int = 3
    margin: float = 1.0
    enough_held_out: int = 50
    min_held_out: int = 10
    keep_generations: int = 3

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None and name == "max_bytes":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise LearnerError(f"{name}={str(value)[:40]} is no whole number from {least} on.")
        for name in ("held_out_ratio", "recent_ratio"):
            value = getattr(self, name)
            if value is None and name == "held_out_ratio":
                continue
            if not (_is_number(value) and 0 < float(value or 0) < 1):
                raise LearnerError(f"{name}={str(value)[:40]} does not lie between 0 and 1.")
        if not (_is_number(self.margin) and self.margin >= 0):
            raise LearnerError(f"margin={str(self.margin)[:40]} is no finite number ≥ 0.")

    def samples(self, sample_bytes: int) -> int:
        """How many samples are kept at most, of so many bytes each.

        Raises:
            LearnerError: `max_bytes` has no room for the fewest that a learner works with.
        """
        least = _LEAST["max_samples"]
        if self.max_bytes is None:
            return self.max_samples
        fit = self.max_bytes // max(sample_bytes, 1)
        if fit < least:
            raise LearnerError(
                f"max_bytes={self.max_bytes} has room for {fit} samples of {sample_bytes} bytes, and a "
                f"learner needs {least}. Give it at least {least * sample_bytes}."
            )
        return min(self.max_samples, fit)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
