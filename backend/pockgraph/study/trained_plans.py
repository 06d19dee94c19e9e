"""What a study's runs say of plans: which of them a forecast counts, and as how much.

A run *as the analysis trains* has its steps, rate, optimizer, kind of head and validation data, a constant
rate from the initial weights on; its gain over the head alone with the same seed is one more measurement.

A run under *other conditions* (the demo's: more steps, rates tuned by plan, a falling rate) counts less, as
plans that were trained alike there may all gain more, or less, than the analysis would find. Its gain is
over the head alone under those conditions, with the same seed; or over the analysis's heads on average,
where the run is as long and as fast as the analysis (`pockui train`, the dashboard, from the task's own
head).

What the analysis trained to choose its rate counts, too, at the rate that it chose: all candidates together.

The rest says nothing: runs that did not end or went on from others, that repeat a measurement, that do not
train the whole head, or whose head alone was never trained alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..contribution.candidates import choice_of
from ..contribution.forecast import TrainedPlan
from ..contribution.gains import HEAD, Contribution, Measurement
from ..plan import Plan
from ..plan.channels import count_of
from .records import DataSplit, Run

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Conditions:
    """How an analysis trained.

    Attributes:
        optimizer: as a plan describes it.
        heads: seed -> validation metric of the head alone.
    """

    steps: int
    batches: int | None
    lr: float
    target: str
    optimizer: Mapping[str, Any]
    heads: Mapping[int, float]

    @classmethod
    def of(
        cls, settings: str, measurements: Sequence[Measurement], optimizer: Mapping[str, Any]
    ) -> Conditions:
        """
        Args:
            settings: the analysis's, as its row has them.
            measurements: its own, with at least one of the head alone.
        """
        alone = [m for m in measurements if m.purpose == "contribution" and m.candidate == HEAD]
        done = [m for m in alone if m.metric is not None and m.lr is not None]
        lr = done[0].lr
        assert lr is not None
        metrics = {m.seed: m.metric for m in done if m.metric is not None}
        return cls(done[0].steps, json.loads(settings).get("batches"), lr, done[0].target, optimizer, metrics)


class TrainedAlike(NamedTuple):
    """A plan that was trained as the analysis trains: FQN -> ratio, and a validation metric for each seed."""

    ratios: Mapping[str, float]
    metrics: tuple[float, ...]


def measured_ratios(plan: Plan, contribution: Contribution) -> dict[str, float]:
    """FQN -> ratio of a plan; the measured one where it means as many channels (1/8 of 12 are 2, as 1/6)."""
    found = {}
    for fqn, trained in plan.tensors.items():
        found[fqn] = plan.ratio(fqn)
        if trained.channels is None or trained.dim is None:
            continue
        for ratio in contribution.weights.get(fqn, {}):
            if count_of(ratio, plan.model[fqn][trained.dim]) == len(trained.channels):
                found[fqn] = ratio
    return found


def trained_plans(
    runs: Iterable[Run], conditions: Conditions, contribution: Contribution, measured: Sequence[Measurement]
) -> tuple[TrainedPlan, ...]:
    """What the runs say, a plan and its conditions each.

    Args:
        conditions: of the analysis.
        measured: its measurements.
    """
    usable = [r for r in runs if _is_usable(r)]
    validation = _validation_of(usable, conditions, contribution)
    # A verification trains with the analysis's kind of head; whether that is a fresh one, no row says.
    fresh = next((r.fresh for r in usable if r.origin == "verify"), False)
    known = {(*_key(r, conditions, validation, fresh), r.seed): r for r in usable}  # a seed's last run
    heads = {
        (where, seed): r.validation_metric
        for (_, where, seed), r in known.items()
        if r.plan.tensors.keys() == set(contribution.head)
    }
    tuned = [m for m in measured if m.candidate.is_several and _is_at_rate(m, conditions)]
    choices = [
        (m, choice_of(m.candidate, contribution.head, contribution.bias_order))
        for m in (*tuned, *(m for m in measured if m.purpose == "contribution"))
        if m.metric is not None
    ]
    repeated = {(_choice_key(choice), m.seed) for m, choice in choices}
    gains: dict[Key, list[tuple[float, bool]]] = {}
    ratios_of: dict[Key, dict[str, float]] = {}
    for m, choice in choices[: len(tuned)]:
        if m.metric is not None:
            head = conditions.heads.get(m.seed, contribution.baseline.mean)
            ratios_of[m.candidate, ""] = choice
            gains.setdefault((m.candidate, ""), []).append((m.metric - head, m.seed in conditions.heads))
    for (tensors, where, seed), run in known.items():
        ratios = measured_ratios(run.plan, contribution)
        if any(ratios.get(fqn, 0.0) < 1 for fqn in contribution.head) or len(ratios) == len(
            contribution.head
        ):
            continue
        if not where and (_choice_key(ratios), seed) in repeated:
            continue
        head = run.head_metric if run.head_metric is not None else heads.get((where, seed))
        if head is None and not where:
            head = conditions.heads.get(seed)
        if head is None and _is_trained_alike(run, conditions) and run.data.get("validation") == validation:
            head = contribution.baseline.mean
        if head is None or run.validation_metric is None:
            continue
        key = tensors, where
        ratios_of[key] = ratios
        gains.setdefault(key, []).append((run.validation_metric - head, conditions.heads.get(seed) == head))
    return tuple(
        TrainedPlan(
            ratios_of[key],
            sum(gain for gain, _ in found) / len(found),
            len(found),
            sum(same for _, same in found) / len(found),
            key[1],
        )
        for key, found in gains.items()
    )


def trained_alike(
    runs: Iterable[Run], conditions: Conditions, contribution: Contribution
) -> tuple[tuple[TrainedAlike, ...], int]:
    """The plans that runs trained as the analysis trains, and how many others were trained in another way.

    Unlike `trained_plans`, with those that say nothing new of gains: the head alone, and what a measurement
    trained with the same seed.
    """
    usable = [r for r in runs if _is_usable(r)]
    validation = _validation_of(usable, conditions, contribution)
    fresh = next((r.fresh for r in usable if r.origin == "verify"), False)
    plans: dict[Key, dict[int, Run]] = {}
    for run in usable:
        plans.setdefault(_key(run, conditions, validation, fresh), {})[run.seed] = run
    alike = {key[0]: by_seed for key, by_seed in plans.items() if not key[1]}
    found = []
    for by_seed in alike.values():
        metrics = tuple(r.validation_metric for r in by_seed.values() if r.validation_metric is not None)
        found.append(TrainedAlike(measured_ratios(next(iter(by_seed.values())).plan, contribution), metrics))
    return tuple(found), len({key[0] for key in plans} - alike.keys())


def _is_at_rate(measured: Measurement, conditions: Conditions) -> bool:
    same = measured.lr is not None and math.isclose(measured.lr, conditions.lr, rel_tol=1e-9)
    return same and measured.metric is not None and measured.steps == conditions.steps


def _is_usable(run: Run) -> bool:
    metric = run.validation_metric
    return run.status == "done" and metric is not None and math.isfinite(metric) and not run.began_at


def _validation_of(
    runs: Iterable[Run], conditions: Conditions, contribution: Contribution
) -> DataSplit | None:
    """The analysis's validation data, which no row of it names.

    Those of a run whose head alone got the very same metric on them; else those of as many samples as the
    analysis's metrics are means of.
    """
    alike = [r for r in runs if _is_trained_alike(r, conditions) and "validation" in r.data]
    for run in alike:
        if run.head_metric is not None and run.head_metric == conditions.heads.get(run.seed):
            return run.data["validation"]
    samples = contribution.noise and contribution.noise.samples
    return next((r.data["validation"] for r in alike if r.data["validation"].samples == samples), None)


def _is_trained_alike(run: Run, conditions: Conditions) -> bool:
    alike = run.lr is not None and math.isclose(run.lr, conditions.lr, rel_tol=1e-9)
    alike = alike and run.steps == conditions.steps and run.schedule == "constant"
    return alike and _is_same_rule(run.plan.optimizer, conditions.optimizer)


def _is_same_rule(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether optimizers differ in no more than their rate, or in options that one's release did not have."""
    a, b = (json.loads(json.dumps(optimizer)) for optimizer in (one, other))
    named = (a.keys() & b.keys() - {"lr"}) | {"groups", "clip_norm", "accumulate", "ema_decay"}
    return all(a.get(option) == b.get(option) for option in named)


def _key(run: Run, conditions: Conditions, validation: DataSplit | None, fresh: bool) -> Key:
    """(what was trained, under which conditions: empty for the analysis's)."""
    tensors = frozenset(run.plan.tensors.items())
    split = run.data.get("validation")
    known = split is not None and split == validation
    if _is_trained_alike(run, conditions) and known and run.fresh == fresh:
        return tensors, ""
    optimizer = {k: v for k, v in run.plan.optimizer.items() if k != "lr"}
    where = [run.steps, run.schedule, optimizer, run.fresh, split and [split.batches, split.fingerprint]]
    return tensors, json.dumps(where, sort_keys=True)


def _choice_key(ratios: Mapping[str, float]) -> frozenset[tuple[str, float]]:
    return frozenset((fqn, ratio) for fqn, ratio in ratios.items() if ratio)
