"""The demo's forecasts: what plans are expected to reach, and what they reach when trained so.

A forecast is of one training as the analysis trains: its steps, rate, heads and validation data. So are the
trainings that it is held against; the comparison's own ones are longer, and at rates chosen for each method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pockgraph import Study
from pockgraph.contribution import Progress
from pockgraph.contribution.forecast import Forecaster
from pockgraph.errors import NonFiniteLoss
from pockgraph.study.trained_plans import measured_ratios

from .planning import PlannedMethod
from .results import Expected

UNITS = 100  # of progress, for each method


def expected(study: Study, planned: Mapping[str, PlannedMethod]) -> dict[str, Expected]:
    """Key of a method -> forecast, from measured gains alone: no plan's training counts in it.

    Methods that train another network than the study's have none.
    """
    contribution = study.contribution
    forecaster = Forecaster(contribution)
    found = {}
    for key, method in planned.items():
        if method.graph is None:
            forecast = forecaster.forecast(measured_ratios(method.plan, contribution))
            found[key] = Expected(metric=forecast.metric, low=forecast.low, high=forecast.high)
    return found


def held_against(
    forecasts: Mapping[str, Expected],
    study: Study,
    planned: Mapping[str, PlannedMethod],
    seeds: Sequence[int],
    report: Callable[[int, int, str], None],
) -> dict[str, Expected]:
    """The same forecasts with what the plans reach, as the analysis trains; the study keeps the runs.

    Args:
        report: called with (done, total, what is being trained).
    """
    beside_head = [key for key in forecasts if key != "head"]
    reached: dict[str, tuple[float | None, ...]] = {}
    for n, key in enumerate(beside_head):
        method = planned[key]

        def tick(event: Progress, n: int = n) -> None:
            done = UNITS * (n + event.done / max(1, event.total))
            report(round(done), UNITS * len(beside_head), event.label)

        try:
            # The gradients are the same graph's each time: the first plan's check is enough.
            found = study.verify(method.plan, seeds=seeds, name=method.label, progress=tick, force=n > 0)
        except NonFiniteLoss:
            reached[key] = (None,) * len(seeds)
            continue
        reached[key] = tuple(run.validation_metric for run in found.runs)
        reached["head"] = tuple(run.head_metric for run in found.runs)  # trained with the same seeds
    return {key: e.model_copy(update={"reached": reached.get(key, ())}) for key, e in forecasts.items()}
