"""Contribution: how much the metric gains when one tensor, or the last k biases, learn too.

Pure values, no torch: a dashboard reads them from a study where no model is at hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Gain:
    """A difference of the metric to training the head alone, over seeds.

    Attributes:
        mean: average over seeds of (metric with the tensor) - (metric of the head alone), both with
            the same seed and batches.
        std: sample standard deviation over seeds; NaN for one seed, where it is unknown.
        seeds: how many.
    """

    mean: float
    std: float
    seeds: int

    @classmethod
    def of(cls, differences: Iterable[float]) -> Gain:
        values = list(differences)
        mean = sum(values) / len(values)
        if len(values) < 2:
            return cls(mean, math.nan, len(values))
        variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
        return cls(mean, math.sqrt(variance), len(values))


@dataclass(frozen=True)
class Contribution:
    """The contribution table of a task.

    Attributes:
        baseline: the metric of the head alone (mean over seeds), and its spread.
        weights: FQN -> trained ratio -> gain of training that tensor beside the head.
        biases: k -> gain of training the last k biases beside the head. Biases are counted from the
            output, see `bias_order`.
        bias_order: FQNs of the biases outside the head, last layer first.
        head: FQNs of the head, trained in every measurement and every plan.
    """

    baseline: Gain
    weights: Mapping[str, Mapping[float, Gain]] = field(default_factory=dict)
    biases: Mapping[int, Gain] = field(default_factory=dict)
    bias_order: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
