"""Contribution: how much the metric gains when one tensor, or the last k biases, learn too.

Pure values, no torch: a dashboard reads them from a study where no model is at hand.

A candidate is measured against training the head alone, with the same seed (the same fresh head, the
same batches in the same order), the same number of steps and the same learning rate. One whose loss or
metric becomes NaN or infinite has *diverged*: with any seed, that removes the candidate from the table,
so that no search picks it, and lists it under `diverged`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, Literal

from ..errors import StudyError
from ..notebook_html import percent, summary
from .noise import Noise

INTERVAL_COVERAGE = 0.9  # share of values that an interval of an estimate or a forecast holds


@dataclass(frozen=True)
class Gain:
    """A finite difference of the metric to training the head alone, over seeds.

    Attributes:
        mean: average over seeds of (metric with the tensor) - (metric of the head alone), both with
            the same seed and batches.
        std: sample standard deviation over seeds; NaN for one seed, where it is unknown.
        seeds: how many.
    """

    mean: float
    std: float
    seeds: int

    def __post_init__(self) -> None:
        if not math.isfinite(self.mean):
            raise StudyError(f"A gain of {self.mean} cannot be compared with others. Leave that tensor out.")

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
        diverged: what is missing above because its training diverged.
        noise: of one training's metric, as far as the measurements show it; None where nothing says.
    """

    baseline: Gain
    weights: Mapping[str, Mapping[float, Gain]] = field(default_factory=dict)
    biases: Mapping[int, Gain] = field(default_factory=dict)
    bias_order: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    diverged: tuple[Candidate, ...] = ()
    noise: Noise | None = None

    def __repr__(self) -> str:
        return (
            f"Contribution(head {self.baseline.mean:.4g}, {len(self.weights)} weights and "
            f"{len(self.biases)} numbers of biases measured)"
        )

    def _repr_html_(self) -> str:
        best = {
            fqn: max(gains.items(), key=lambda g: g[1].mean) for fqn, gains in self.weights.items() if gains
        }
        ranked = sorted(best.items(), key=lambda item: -item[1][1].mean)
        rows = [(fqn, percent(q), f"{g.mean:+.4f}", f"{g.std:.4f}", g.seeds) for fqn, (q, g) in ranked]
        columns = ("tensor", "trained", "gain", "std", "seeds")
        gains = [g.mean for _, g in best.values()]
        return summary(repr(self), columns, rows, gains, "largest gain of each weight, as measured")

    @classmethod
    def of(
        cls,
        baseline: Gain,
        gains: Mapping[Candidate, Gain],
        bias_order: Iterable[str],
        head: Iterable[str],
        diverged: Iterable[Candidate] = (),
        noise: Noise | None = None,
    ) -> Contribution:
        """The table of some candidates' gains."""
        weights: dict[str, dict[float, Gain]] = {}
        biases: dict[int, Gain] = {}
        for candidate, gain in gains.items():
            if candidate.kind == "weight":
                weights.setdefault(candidate.fqn, {})[candidate.ratio] = gain
            else:
                biases[candidate.k] = gain
        return cls(
            baseline, weights, dict(sorted(biases.items())), tuple(bias_order), tuple(head), tuple(diverged),
            noise,
        )  # fmt: skip

    def predicted_gain(self, ratios: Mapping[str, float]) -> float:
        """Sum of the gains of what is trained: the search's objective (arXiv 2310.17752, section 3).

        Between measured ratios the gain is linear, from 0 at a frozen tensor on; a ratio above the largest
        measured one gains what that one does. Biases count as the last k, for the k that are trained
        without a gap. What was not measured gains nothing.

        Args:
            ratios: FQN -> trained ratio.
        """
        total = sum(_gain_at(gains, ratios[fqn]) for fqn, gains in self.weights.items() if ratios.get(fqn))
        return total + _gain_at(self.biases, count_last_biases(ratios, self.bias_order))

    def with_amounts_of(self, plans: Iterable[Mapping[str, float]]) -> Contribution:
        """The table with the ratios and numbers of biases that plans train between the measured ones.

        It adds up to the same for every plan; what it lists is what a search chooses from.

        Args:
            plans: of each, FQN -> trained ratio.
        """
        weights = {fqn: dict(gains) for fqn, gains in self.weights.items()}
        biases = dict(self.biases)
        for ratios in plans:
            for fqn, gains in weights.items():
                _interpolate(gains, ratios.get(fqn, 0.0))
            _interpolate(biases, count_last_biases(ratios, self.bias_order))
        return replace(self, weights=weights, biases=dict(sorted(biases.items())))


def count_last_biases(ratios: Mapping[str, float], bias_order: Iterable[str]) -> int:
    """How many of the biases, the last one first, are trained without a gap."""
    return sum(1 for _ in takewhile(ratios.get, bias_order))


def _gain_at(gains: Mapping[float, Gain] | Mapping[int, Gain], amount: float) -> float:
    """The mean gain of a ratio or a count, interpolated between the measured ones."""
    below, gain_below = 0.0, 0.0
    for measured, gain in sorted(gains.items()):
        if measured >= amount:
            width = measured - below
            if not width:
                return gain.mean
            return gain_below + (amount - below) / width * (gain.mean - gain_below)
        below, gain_below = measured, gain.mean
    return gain_below


def _interpolate(gains: dict[Any, Gain], amount: float) -> None:
    """Add an amount below the largest that is there, where it is not."""
    if 0 < amount < max(gains, default=0) and amount not in gains:
        above = min(measured for measured in gains if measured > amount)
        gains[amount] = replace(gains[above], mean=_gain_at(gains, amount))


Kind = Literal["head", "weight", "bias_k"]
Purpose = Literal["contribution", "screening", "tuning"]
Status = Literal["planned", "done", "diverged", "failed"]


@dataclass(frozen=True)
class Candidate:
    """What is trained beside the head in one measurement.

    Attributes:
        kind: `"head"` (nothing), `"weight"` (the tensor `fqn`, a share `ratio` of its channels) or
            `"bias_k"` (the last `k` biases). Several weights, with the last `k` biases, have their names in
            `fqn` (see `together`): the rate is tuned with them, and they are in no table.
    """

    kind: Kind
    fqn: str = ""
    ratio: float = 0.0
    k: int = 0

    @property
    def label(self) -> str:
        """`"head alone"`, `"conv1.weight, 25 %"` or `"last 8 biases"`."""
        if self.is_several:
            return f"{len(self.fqns)} weights and {self.k} biases together"
        if self.kind == "weight":
            return f"{self.fqn}, {100 * self.ratio:.3g} %" if self.ratio < 1 else self.fqn
        return f"last {self.k} biases" if self.kind == "bias_k" else "head alone"

    @property
    def fqns(self) -> list[str]:
        """Of the weights."""
        return self.fqn.split(AND) if self.kind == "weight" else []

    @property
    def is_several(self) -> bool:
        return self.kind == "weight" and (self.k > 0 or AND in self.fqn)


HEAD = Candidate("head")
AND = " + "


def together(candidates: Iterable[Candidate]) -> Candidate | None:
    """All of them at once, at the largest ratio; None where they are no more than one of them."""
    several = list(candidates)
    weights = list(dict.fromkeys(c.fqn for c in several if c.kind == "weight"))
    k = max((c.k for c in several), default=0)
    if not weights or (len(weights) == 1 and not k):
        return None
    return Candidate("weight", AND.join(weights), max(c.ratio for c in several), k)


@dataclass(frozen=True)
class Measurement:
    """One candidate fine-tuned with one seed.

    Attributes:
        purpose: `"contribution"`; `"screening"`, with fewer steps, to drop what gains least; or `"tuning"` of
            the learning rate.
        status: `"planned"`, `"done"`, `"diverged"`, or `"failed"` with `error` (it is tried again).
        lr, steps, target: how it was trained; `metric`: mean over the validation samples afterwards.
        loss: mean training loss of the last quarter of the steps, each before its update.
        duration_s: making the graph included, for the seed that was first.
        finished: seconds since 1970.
    """

    id: int
    purpose: Purpose
    candidate: Candidate
    seed: int
    status: Status
    lr: float | None
    steps: int
    target: str
    metric: float | None
    loss: float | None
    duration_s: float | None
    finished: float | None
    error: str

    @classmethod
    def of_row(cls, row: Any) -> Measurement:
        """From a row of the study's table of measurements."""
        return cls(
            id=row["id"], purpose=row["purpose"], seed=row["seed"], status=row["status"],
            candidate=Candidate(row["kind"], row["fqn"], row["ratio"], row["k"]),
            lr=row["tried_lr"] or row["lr"], steps=row["steps"], target=row["target"], metric=row["metric"],
            loss=row["loss"], duration_s=row["duration_s"], finished=row["finished"], error=row["error"],
        )  # fmt: skip


@dataclass(frozen=True)
class Progress:
    """How far an analysis is.

    Attributes:
        done, total: measurements, those of the learning rate included.
        label: what is being done.
        seconds_left: an estimate, None before there is one.
        last: the measurement that was just finished.
    """

    done: int
    total: int
    label: str
    seconds_left: float | None
    last: Measurement | None = None


def tabulate(
    measurements: Iterable[Measurement], head: Sequence[str], bias_order: Sequence[str]
) -> Contribution | None:
    """The contribution table of some measurements; None while the head alone was not measured."""
    taken = [m for m in measurements if m.purpose == "contribution"]
    metrics = metrics_by_seed(taken)
    alone = metrics.get(HEAD)
    if not alone:
        return None
    diverged = dict.fromkeys(m.candidate for m in taken if _diverged(m))
    gains = {c: Gain.of(g.values()) for c, g in gains_by_seed(metrics).items() if c not in diverged}
    noise = Noise.of({HEAD: alone} | {c: metrics[c] for c in gains})
    return Contribution.of(Gain.of(alone.values()), gains, bias_order, head, diverged, noise)


def metrics_by_seed(measurements: Iterable[Measurement]) -> dict[Candidate, dict[int, float]]:
    """Candidate -> seed -> metric, of measurements of one purpose that did not diverge.

    Only of seeds that the head alone was measured with, too.
    """
    found: dict[Candidate, dict[int, float]] = {}
    for m in measurements:
        if m.metric is not None and not _diverged(m):
            found.setdefault(m.candidate, {})[m.seed] = m.metric
    alone = found.get(HEAD, {})
    with_head = {c: {s: v for s, v in by_seed.items() if s in alone} for c, by_seed in found.items()}
    return {c: by_seed for c, by_seed in with_head.items() if by_seed}


def gains_by_seed(metrics: Mapping[Candidate, Mapping[int, float]]) -> dict[Candidate, dict[int, float]]:
    """Candidate -> seed -> its metric less that of the head alone, of what `metrics_by_seed` gave."""
    alone = metrics.get(HEAD, {})
    return {c: {s: v - alone[s] for s, v in by_seed.items()} for c, by_seed in metrics.items() if c != HEAD}


def _diverged(measured: Measurement) -> bool:
    """Also by its metric, which a file may hold as infinite."""
    return measured.status == "diverged" or not math.isfinite(measured.metric or 0.0)
