"""What a log says: the last state of each pair, and which goals it meets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .contenders import LABELS
from .log import Row

LEEWAY = 0.005  # half a point below full fine-tuning
# Of Student's t, two-sided 95 %, by degrees of freedom; from ten on the normal's is near enough.
T95 = (math.nan, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


@dataclass
class Method:
    """A way of choosing on a pair.

    Attributes:
        plan: the row that says what it chose; `measured`: the one of time and memory.
        trials: rate -> metric on the validation data; `metrics`: seed -> metric on the test data.
        skipped: why there is no plan.
    """

    plan: Row = field(default_factory=dict)
    measured: Row = field(default_factory=dict)
    trials: dict[float, float | None] = field(default_factory=dict)
    metrics: dict[int, float | None] = field(default_factory=dict)
    rate: float | None = None
    skipped: str = ""

    @property
    def known(self) -> list[float]:
        return [m for m in self.metrics.values() if m is not None]

    @property
    def mean(self) -> float | None:
        """None when a run diverged or there was none."""
        whole = self.known and len(self.known) == len(self.metrics)
        return statistics.fmean(self.known) if whole else None

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds."""
        return statistics.stdev(self.known) if len(self.known) > 1 and self.mean is not None else None


@dataclass
class Pair:
    """A pair's methods by key; `failed`: why it stopped, if it did; `finished`: whether it is complete."""

    methods: dict[str, Method] = field(default_factory=dict)
    failed: str = ""
    finished: bool = False


@dataclass(frozen=True)
class Goal:
    """One comparison of means on a pair.

    Attributes:
        difference: of the automatic plan's mean over the other's; `wanted`: at least so much.
        low, high: 95 % interval of the difference over paired seeds; None for fewer than two.
    """

    pair: str
    text: str
    difference: float
    wanted: float
    low: float | None
    high: float | None

    @property
    def met(self) -> bool:
        return self.difference >= self.wanted

    @property
    def is_clear(self) -> bool:
        """Whether the interval lies on one side of what is wanted."""
        return self.low is not None and self.high is not None and not self.low < self.wanted <= self.high


def pairs_of(rows: Sequence[Row]) -> dict[str, Pair]:
    """The state of each pair in a log: of each method, what belongs to the plan that came last."""
    pairs: dict[str, Pair] = {}
    for row in rows:
        if "pair" not in row:
            continue
        pair = pairs.setdefault(row["pair"], Pair())
        method = pair.methods.setdefault(row["method"], Method()) if "method" in row else Method()
        match row["kind"]:
            case "plan":
                if method.plan.get("plan") != row["plan"] or _conditions(method.plan) != _conditions(row):
                    method = pair.methods[row["method"]] = Method()
                method.plan = row
            case "skipped":
                pair.methods[row["method"]] = Method(skipped=row["reason"])
            case "trial" if _belongs(row, method):
                method.trials[row["rate"]] = row["metric"]
            case "run" if _belongs(row, method):
                if method.rate != row["rate"]:
                    method.rate, method.metrics = row["rate"], {}
                method.metrics[row["seed"]] = row["metric"]
            case "measured" if row["plan"] == method.plan.get("plan"):
                method.measured = row
            case "failed":
                pair.failed, pair.finished = row["reason"], False
            case "done":
                pair.failed, pair.finished = "", True
    for pair in pairs.values():
        pair.methods = {k: pair.methods[k] for k in LABELS if k in pair.methods}
    return pairs


def _conditions(row: Row) -> tuple[Any, ...]:
    return row.get("steps"), row.get("tuning_steps")


def _belongs(row: Row, method: Method) -> bool:
    return row["plan"] == method.plan.get("plan") and _conditions(row) == _conditions(method.plan)


def goals(pairs: dict[str, Pair]) -> list[Goal]:
    """Every comparison that both sides have figures for."""
    asked = (
        ("auto", "full", -LEEWAY, "half way to full, against full"),
        ("auto_small", "preset", 0.0, "against the preset, same budget"),
        ("auto_small", "lora", 0.0, "against LoRA, same budget"),
    )
    found = []
    for name, pair in pairs.items():
        for ours, theirs, wanted, text in asked:
            one, other = pair.methods.get(ours, Method()), pair.methods.get(theirs, Method())
            if one.mean is None or other.mean is None:
                continue
            low, high = interval(one, other)
            found.append(Goal(name, text, one.mean - other.mean, wanted, low, high))
    return found


def interval(one: Method, other: Method) -> tuple[float | None, float | None]:
    """95 % interval of the mean difference over the seeds that both have."""
    pairs = [(one.metrics[s], other.metrics[s]) for s in one.metrics if s in other.metrics]
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    n = len(differences)
    if n < 2:
        return None, None
    t = T95[n - 1] if n - 1 < len(T95) else 1.96
    half = t * statistics.stdev(differences) / math.sqrt(n)
    mean = statistics.fmean(differences)
    return mean - half, mean + half
