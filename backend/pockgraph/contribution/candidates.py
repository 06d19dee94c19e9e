"""What an analysis measures: its settings, and the candidates that follow from them."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import StudyError, listing, suggest
from ..globs import matches
from ..plan import presets
from ..plan.channels import count_of
from .gains import Candidate

if TYPE_CHECKING:
    from ..profile import Profile
    from ..task import Task
    from ..train_graph import TrainGraph

LR_GRID = (0.1, 10**-0.5, 1.0, 10**0.5, 10.0)  # times the optimizer's rate
MAX_BIAS_COUNTS = 8
SCREENING_RATIO = 0.25  # of the steps, in a training that only tells what is not worth a whole one
CACHE_BYTES = 1 << 30
MOST_STEPS = 2**31 - 1
Mode = Literal["measured", "probe", "mixed"]
MODES = get_args(Mode)


@dataclass(frozen=True)
class Settings:
    """What an analysis measures; the arguments of `Study.analyze`, see there.

    Raises:
        StudyError: a value that makes no sense.
    """

    steps: int = 100
    seeds: tuple[int, ...] = (0,)
    ratios: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)
    tensors: tuple[str, ...] | None = None
    bias_counts: tuple[int, ...] | None = None
    lr: float | tuple[float, ...] | None = None
    target: str = "auto"
    batches: int | None = None
    cache_bytes: int = CACHE_BYTES
    mode: str = "measured"
    time_budget_s: float = math.inf

    def __post_init__(self) -> None:
        rates = (self.lr,) if isinstance(self.lr, int | float) else self.lr or (1.0,)
        wrong = {
            f"steps must be 1 to {MOST_STEPS}": 1 <= self.steps <= MOST_STEPS,
            "seeds must be distinct, and at least one": len(set(self.seeds)) == len(self.seeds) > 0,
            "seeds must be whole numbers": all(isinstance(s, int) for s in self.seeds),
            "ratios must lie above 0 and at most at 1": all(0 < r <= 1 for r in self.ratios),
            "lr must be positive and finite": all(0 < r < math.inf for r in rates),
            "lr must be at least one rate": self.lr != (),
            "batches must be 1 or more": self.batches is None or self.batches >= 1,
            f"mode must be one of {', '.join(MODES)}": self.mode in MODES,
            "time_budget_s must be positive": self.time_budget_s > 0,
        }
        broken = [rule for rule, holds in wrong.items() if not holds]
        if broken:
            raise StudyError(f"Cannot analyse with these settings: {'; '.join(broken)}. Got {self}.")

    @classmethod
    def of(cls, **given: Any) -> Settings:
        """The settings that a user gave, lists as tuples; those that are None stay as they are by default.

        Raises:
            StudyError: one is of another kind, by name; a value that makes no sense.
        """
        converted = {}
        for name, value in given.items():
            if value is None:
                continue
            convert, what = _KINDS[name]
            try:
                converted[name] = convert(value)
            except (TypeError, ValueError):
                raise StudyError(
                    f"Cannot analyse with {name}={str(value)[:40]!r}: it must be {what}. Pass that, or leave "
                    "it out."
                ) from None
        return cls(**converted)

    @property
    def screening_steps(self) -> int:
        """Of a training that only tells what is not worth a whole one."""
        return max(1, round(self.steps * SCREENING_RATIO))

    def comparable(self, default_lr: float) -> str:
        """The settings that measurements must share to be compared, as JSON."""
        rate = {"lr": self.lr} if isinstance(self.lr, int | float) else {"grid": self.grid(default_lr)}
        return json.dumps({"steps": self.steps, "batches": self.batches, **rate}, sort_keys=True)

    @property
    def tuning_seeds(self) -> tuple[int, ...]:
        """What the rate is chosen with: two where time is not limited."""
        first, *others = self.seeds
        if math.isfinite(self.time_budget_s):
            return (first,)
        return first, others[0] if others else first + 1

    def grid(self, default_lr: float) -> list[float]:
        """The learning rates that are tried."""
        return list(self.lr) if isinstance(self.lr, tuple) else [default_lr * r for r in LR_GRID]


def _integers(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(map(operator.index, values))


def _numbers(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(map(float, values))


def _rate(value: Any) -> float | tuple[float, ...]:
    return value if isinstance(value, int | float) else _numbers(value)


def _texts(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("not all are texts")
    return texts


_KINDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "steps": (operator.index, "a number of steps"),
    "seeds": (_integers, "a list of whole numbers"),
    "ratios": (_numbers, "a list of numbers"),
    "tensors": (_texts, "a list of names or globs"),
    "bias_counts": (_integers, "a list of whole numbers"),
    "lr": (_rate, "a number or a list of numbers"),
    "target": (str, "the name of a target"),
    "batches": (operator.index, "a number of batches"),
    "cache_bytes": (operator.index, "a number of bytes"),
    "mode": (str, "the name of a mode"),
    "time_budget_s": (float, "a number of seconds"),
}


def quick_settings(profile: Profile) -> dict[str, Any]:
    """Keywords for `Study.analyze` that give a first, rough table within a minute on two cores.

    One seed, 25 steps, 200 validation samples, two ratios, three learning rates, and of each block only the
    weight that matters most (arXiv 2310.17752): its first pointwise convolution, or its first matrix; where
    it has neither, its first weight.
    """
    first: dict[str, str] = {}
    weights = [t for t in profile.tensors if t.kind == "weight" and t.fqn not in profile.head]
    pointwise = [t for t in weights if t.channels is not None and all(s == 1 for s in t.shape[2:])]
    for tensors in (pointwise, weights):
        for tensor in sorted(tensors, key=lambda t: t.depth):
            first.setdefault(tensor.block, tensor.fqn)
    samples = max((spec.shape[0] for spec in profile.batch.values() if spec.shape), default=1)
    rate = float(profile.optimizer["lr"])
    return {
        "steps": 25,
        "seeds": (0,),
        "ratios": (1.0, 0.25),
        "tensors": tuple(first.values()),
        "bias_counts": None,
        "lr": (rate * 0.1, rate * 10**-0.5, rate),
        "batches": max(1, 200 // samples),
    }


def head_of(graph: TrainGraph, task: Task) -> tuple[str, ...]:
    """What every measurement trains: the last layer, and all that was never pretrained."""
    fresh = set(task.fresh_fqns())
    chosen = presets.head(graph).keys() | fresh
    return tuple(r.fqn for r in graph.tensors if r.fqn in chosen)


def bias_order_of(graph: TrainGraph, head: Iterable[str]) -> tuple[str, ...]:
    """Biases outside the head, last layer first."""
    skip = set(head)
    return tuple(r.fqn for r in presets.biases(graph) if r.fqn not in skip)


def candidates(graph: TrainGraph, head: Sequence[str], settings: Settings) -> list[Candidate]:
    """Everything that is measured beside the head.

    Every weight at each ratio (at 1 only where it has no channels to choose; a ratio that means as many
    channels as a larger one is left out), and the last k biases.

    Raises:
        StudyError: a pattern that matches no weight, or a k that is no number of biases.
    """
    weights = {r.fqn: r for r in graph.tensors if r.kind == "weight" and r.fqn not in head}
    chosen = list(weights)
    if settings.tensors is not None:
        for glob in settings.tensors:
            if not any(matches(w, glob) for w in weights):
                raise StudyError(
                    f"tensors={glob!r} matches no weight outside the head.{suggest(glob, weights)} "
                    f"There are {listing(list(weights))}."
                )
        chosen = [w for w in weights if any(matches(w, g) for g in settings.tensors)]
    found = []
    for fqn in chosen:
        counts = set()
        for ratio in sorted(set(settings.ratios), reverse=True):
            channels = weights[fqn].channels
            if channels is None and ratio < 1:
                continue
            count = channels and count_of(ratio, channels)
            if count not in counts:
                counts.add(count)
                found.append(Candidate("weight", fqn, ratio=1.0 if count == channels else ratio))
    order = bias_order_of(graph, head)
    counts = _bias_counts(graph, order) if settings.bias_counts is None else settings.bias_counts
    for k in counts:
        if not 1 <= k <= len(order):
            raise StudyError(f"bias_counts: the model has {len(order)} biases outside the head, got {k}.")
    return found + [Candidate("bias_k", k=k) for k in sorted(set(counts))]


def _bias_counts(graph: TrainGraph, order: Sequence[str]) -> list[int]:
    """Counts that end with a whole block, thinned out to `MAX_BIAS_COUNTS`; all biases are among them."""
    block = {r.fqn: r.block for r in graph.tensors}
    ends = [k for k in range(1, len(order) + 1) if k == len(order) or block[order[k]] != block[order[k - 1]]]
    if len(ends) <= MAX_BIAS_COUNTS:
        return ends
    return [ends[-1 - round(i * (len(ends) - 1) / (MAX_BIAS_COUNTS - 1))] for i in range(MAX_BIAS_COUNTS)]


def choice_of(candidate: Candidate, head: Iterable[str], bias_order: Sequence[str]) -> dict[str, float]:
    """FQN -> ratio of what a measurement trains."""
    choice = dict.fromkeys(head, 1.0)
    choice |= dict.fromkeys(candidate.fqns, candidate.ratio)
    return choice | dict.fromkeys(bias_order[: candidate.k], 1.0)
