"""Predicted beside measured, as text: forecasts of the metric, and the account of each process's memory."""

from __future__ import annotations

from collections.abc import Sequence

from ..info.format import UNKNOWN, MetricScale, accuracy, change, size
from ..info.gains import COVERAGE_TEXT
from ..info.process_memory import PARTS
from .results import Expected, Report

FORECAST_COLUMNS = ("Method", ">Forecast", f">{COVERAGE_TEXT} within", ">Reached", ">Inside")
PROCESS_COLUMNS = ("Method", *(f">{part.capitalize()}" for part in PARTS), ">Predicted", ">Measured", ">Off")


def forecast_table(report: Report) -> list[Sequence[str]]:
    """A row for each plan that has a forecast."""
    return [
        (
            method.label,
            MetricScale(method.expected.metric).level(method.expected.metric),
            interval_text(method.expected),
            accuracy(method.expected.reached),
            f"{method.expected.inside} of {len(method.expected.reached)}"
            if method.expected.reached
            else UNKNOWN,
        )
        for method in report.methods
        if method.expected is not None
    ]


def interval_text(expected: Expected) -> str:
    """`84.0 to 91.2 %`."""
    return MetricScale(expected.metric).interval(expected.low, expected.high)


def forecast_note(report: Report) -> str:
    """What the columns mean."""
    steps = report.settings.get("analysis", {}).get("steps")
    how = f"{steps} steps at one rate" if steps else "its steps, at its rate"
    return (
        f"Forecast: the validation metric expected of one training as the analysis trains ({how}), and what "
        f"{COVERAGE_TEXT} trainings lie in, from measured gains alone. Reached: by such trainings, with "
        "seeds that no measurement had. The comparison's own trainings are longer, at a rate chosen for each "
        "method."
    )


def process_table(report: Report) -> list[Sequence[str]]:
    """A row for each plan whose process was measured on OpenVINO."""
    return [
        (
            method.label,
            *map(size, method.process.parts.values()),
            size(method.process.predicted_bytes),
            size(method.process.measured_bytes),
            change(method.process.predicted_bytes, method.process.measured_bytes),
        )
        for method in report.methods
        if method.process is not None
    ]


PROCESS_NOTE = (
    "The peak of a process that trains on OpenVINO, as the operating system counts it. Runtime: libraries. "
    "Constants: what is not trained, with the runtime's copies. State: trained parts and optimizer state. "
    "Activations: what a step allocates. Each plan is predicted by a model that was fitted to all others."
)


def prediction_findings(report: Report) -> list[str]:
    """How far predictions and measurements lie apart."""
    said = []
    forecasts = [
        (m.label, m.expected) for m in report.methods if m.expected is not None and m.expected.reached
    ]
    if forecasts:
        inside = sum(e.inside for _, e in forecasts)
        trainings = sum(len(e.reached) for _, e in forecasts)
        missed = [
            f"{label} (forecast {interval_text(e)}, reached {accuracy(e.reached)})"
            for label, e in forecasts
            if e.inside < len(e.reached)
        ]
        said.append(
            f"{inside} of {trainings} trainings lie in the interval of their forecast, which is made for "
            f"{COVERAGE_TEXT}{'. Outside: ' + '; '.join(missed) if missed else ''}."
        )
    processes = [(abs(m.process.error_ratio), m) for m in report.methods if m.process is not None]
    if processes:
        _, worst = max(processes, key=lambda found: found[0])
        assert worst.process is not None
        off = change(worst.process.predicted_bytes, worst.process.measured_bytes)
        said.append(
            f"Predicted and measured process peaks of {len(processes)} plans differ most for {worst.label} "
            f"({off})."
        )
    return said
