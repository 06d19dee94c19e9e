"""Scores: what gradients say about each tensor before it was trained, as values.

Pure, no torch: a study's scores are read where no model is at hand. `probe.py` computes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .gains import Candidate


@dataclass(frozen=True)
class Score:
    """What the gradients g of a few batches say about training part of the weights w.

    Attributes:
        taylor: sum of |g·w|, g averaged over the batches: how much the loss depends on these weights.
        fisher: sum of g², averaged over the batches: the diagonal of the empirical Fisher information.
        update: -sum of g·Δw for one step Δw of the optimizer: by how much the step lowers the loss, to first
            order. The step is taken on one half of the batches, and the loss is that of the other half, so
            that noise in the gradients does not count; it may be negative. The losses' unit.
    """

    taylor: float
    fisher: float
    update: float


@dataclass(frozen=True)
class Scores:
    """Scores of all candidates of a task.

    Attributes:
        weights: FQN -> trained ratio -> score of the channels that the ratio means.
        biases: k -> score of the last k biases.
        channels: FQN -> Fisher information of each channel, as `Plan.of(channels=…)` takes it.
        seed: of the fresh head and the batches. lr: of the step, and of the head's.
        head_steps: how long the head was trained before.
        batches: how many were looked at.
    """

    weights: Mapping[str, Mapping[float, Score]] = field(default_factory=dict)
    biases: Mapping[int, Score] = field(default_factory=dict)
    channels: Mapping[str, Sequence[float]] = field(default_factory=dict)
    seed: int = 0
    lr: float = 0.0
    head_steps: int = 0
    batches: int = 0

    def of(self, candidate: Candidate) -> Score | None:
        """A candidate's; None: it was not probed."""
        if candidate.kind == "bias_k":
            return self.biases.get(candidate.k)
        return self.weights.get(candidate.fqn, {}).get(candidate.ratio)

    def candidates(self) -> Iterator[Candidate]:
        """All that were probed."""
        for fqn, scores in self.weights.items():
            for ratio in scores:
                yield Candidate("weight", fqn, ratio)
        for k in self.biases:
            yield Candidate("bias_k", k=k)

    def to_json(self) -> str:
        values: dict[str, Any] = {
            "weights": [
                [fqn, ratio, *_row(s)] for fqn, scores in self.weights.items() for ratio, s in scores.items()
            ],
            "biases": [[k, *_row(s)] for k, s in self.biases.items()],
            "channels": {fqn: [_short(v) for v in values] for fqn, values in self.channels.items()},
            "seed": self.seed, "lr": self.lr, "head_steps": self.head_steps, "batches": self.batches,
        }  # fmt: skip
        return json.dumps(values, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Scores:
        """
        Raises:
            ValueError, LookupError, TypeError: it is none.
        """
        data = json.loads(text)
        weights: dict[str, dict[float, Score]] = {}
        for fqn, ratio, *row in data["weights"]:
            weights.setdefault(str(fqn), {})[float(ratio)] = _score(row)
        return cls(
            weights,
            {int(k): _score(row) for k, *row in data["biases"]},
            {str(fqn): tuple(map(float, values)) for fqn, values in data["channels"].items()},
            int(data["seed"]), float(data["lr"]), int(data["head_steps"]), int(data["batches"]),
        )  # fmt: skip


def _row(score: Score) -> tuple[float, float, float]:
    return _short(score.taylor), _short(score.fisher), _short(score.update)


def _score(row: Sequence[Any]) -> Score:
    taylor, fisher, update = map(float, row)
    return Score(taylor, fisher, update)


def _short(value: float) -> float:
    """As many digits as float32 has."""
    return float(f"{value:.8g}")
