"""What a choice of tensors is predicted to need, and forecast to reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from . import format as fmt

if TYPE_CHECKING:
    from pockgraph.contribution.forecast import Forecast
    from pockgraph.profile import Figures, ProcessMemory
    from pockgraph.search.plan_search import Budget


class Prediction(NamedTuple):
    """A choice of tensors with its predicted figures.

    Attributes:
        choice: FQN -> trained share.
        figures: modelled costs.
        forecast: of the metric, with its interval.
        memory: of its process; None where none was measured.
    """

    choice: Mapping[str, float]
    figures: Figures
    forecast: Forecast
    memory: ProcessMemory | None = None


def over_budget(figures: Figures, budget: Budget) -> dict[str, float]:
    """Key of `COSTS` -> by how much the figures exceed the budget."""
    excess = {}
    for key, limit in budget.limits.items():
        need = getattr(figures, key)
        if need is not None and need > limit * (1 + 1e-9):
            excess[key] = need - limit
    return excess


ORIGINS = {  # how a plan came about, in words
    "search": "Best plan found for this budget.",
    "edited": "Edited by hand.",
    "kept": "Taken from what the study keeps.",
    "imported": "Imported from a file.",
    "frontier": "Taken from the frontier.",
    "outdated": "Found before the study's newest measurements; searching again may find a better plan.",
    "linked": "From the page's address. The study has changed since; searching again may find a better plan.",
}
COMPARED = ("Plan", "Forecast", "Peak", "Compute", "Step", "Process")


def comparison(plans: Mapping[str, Prediction], baseline: float) -> list[tuple[str, ...]]:
    """A line of text per plan, in the order of `COMPARED`."""
    metric = fmt.MetricScale(baseline)
    return [
        (
            name,
            metric.level(p.forecast.metric),
            fmt.size(p.figures.peak_bytes),
            fmt.flops(p.figures.flops).removesuffix("FLOP"),
            fmt.milliseconds(p.figures.step_ms),
            fmt.size(p.figures.process_bytes),
        )
        for name, p in plans.items()
    ]
