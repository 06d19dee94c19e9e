"""The tiles on top of the page: a figure of the current plan each.

Labels and units come from `costs.py`, the figures from `Profile.figures`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from . import format as fmt
from .costs import COSTS
from .gains import COVERAGE_TEXT
from .predictions import Prediction, over_budget
from .process_memory import account

if TYPE_CHECKING:
    from pockgraph.profile import Profile
    from pockgraph.search.plan_search import Budget


class Tile(NamedTuple):
    """One figure to show: `alarm` when it breaks the budget, or got worse."""

    label: str
    value: str
    note: str
    help: str
    alarm: bool = False


def figure_tiles(
    now: Prediction, full: Prediction, baseline: float, profile: Profile, budget: Budget
) -> tuple[Tile, ...]:
    """The plan's figures, each beside what training everything needs.

    Args:
        baseline: the metric of the head alone.
    """
    metric = fmt.MetricScale(baseline)
    excess = over_budget(now.figures, budget)
    trained = [fqn for fqn, ratio in now.choice.items() if ratio]
    parameters = sum(math.prod(row.shape) for row in profile.tensors)
    learning = sum(now.choice.get(row.fqn, 0) * math.prod(row.shape) for row in profile.tensors)
    forecast = now.forecast
    out = [
        Tile(
            "Forecast",
            metric.level(forecast.metric),
            metric.interval(forecast.low, forecast.high),
            "The validation metric that the plan is expected to reach, trained as the analysis trained, and "
            f"what {COVERAGE_TEXT} trainings lie in. The head alone reached {metric.level(baseline)}, so "
            f"that is {metric.gain(forecast.gain)}. Plans that were trained count in it.",
        )
    ]
    for key in ("peak_bytes", "extra_bytes", "process_bytes", "flops", "step_ms"):
        if key == "process_bytes" and now.memory is None:
            continue
        cost, value, whole = COSTS[key], getattr(now.figures, key), getattr(full.figures, key)
        if key == "step_ms" and value is None:
            note = "not measured yet"
        elif key in excess:
            note = f"{cost.text(excess[key])} over budget"
        else:
            note = f"{fmt.change(value, whole)} vs full"
        said = f"{cost.help} Full training: {cost.text(whole)}."
        if key == "process_bytes" and now.memory is not None:
            said += f" This plan: {account(now.memory.parts())}."
        out.append(Tile(cost.title, cost.text(value), note, said, key in excess))
    out.append(
        Tile(
            "Trained",
            f"{len(trained)} of {len(profile.tensors)}",
            f"{fmt.percent(learning / parameters)} of weights",
            "Tensors that keep learning. All others stay as they are.",
        )
    )
    return tuple(out)
