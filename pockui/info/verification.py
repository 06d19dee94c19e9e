"""What is said of a verification that goes on, and of one that has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import format as fmt

VERIFY = "Trains it as the analysis trained: the same data, steps and rate. The study keeps what it reaches."


def running_text(events: Sequence[dict[str, Any]]) -> str:
    """What it does now, how far it is, and how long it will take."""
    if not events:
        return "Starting …"
    last = events[-1]
    if last["kind"] == "stage":
        return f"{last['text']} …"
    if last["kind"] != "progress":
        return "Writing the result …"
    left = "" if last["left_s"] is None else f", about {fmt.duration(last['left_s'])} left"
    return f"Training the plan: {fmt.percent(last['done'] / max(1, last['total']))}{left}"


def trained_text(metrics: Sequence[float], metric: fmt.MetricScale) -> str:
    """What the study has of a plan that was trained so before."""
    count, mean = len(metrics), metric.level(sum(metrics) / len(metrics))
    if count == 1:
        return f"This plan was trained once as the analysis trained: measured {mean}."
    ends = metric.interval(min(metrics), max(metrics))
    return (
        f"This plan was trained {count} times as the analysis trained: measured {mean} on average ({ends})."
    )


def ended_text(status: str, verified: dict[str, Any] | None, metric: fmt.MetricScale) -> str:
    """What it found, beside what was forecast."""
    if status == "cancelled":
        return "Cancelled. The study keeps the trainings that were finished."
    if verified is None:
        return ""
    count = verified["trainings"]
    times = "one training" if count == 1 else f"{count} trainings"
    where = "inside" if verified["low"] <= verified["metric"] <= verified["high"] else "outside"
    return (
        f"Measured {metric.level(verified['metric'])} in {times}, {where} the interval of the forecast "
        f"({metric.level(verified['forecast'])}, {metric.interval(verified['low'], verified['high'])}). It "
        "counts in all forecasts now."
    )
