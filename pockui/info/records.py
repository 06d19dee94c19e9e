"""Runs and plans that a study keeps, side by side: figures against a baseline, losses, differing tensors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from . import format as fmt
from .training import target_name

if TYPE_CHECKING:
    from pockgraph.plan import Plan
    from pockgraph.study import Run

    from .predictions import Prediction

COST_STEP = 0.05  # of the baseline's: where a difference in cost begins to count
METRIC_STEP = 0.01  # the same for a metric: a point, or a hundredth of one that is no share
MOST_CURVES = 6  # as many as can be told apart
CURRENT = "current"
Level = Literal["", "better", "worse"]


class Record(NamedTuple):
    """A run or a plan.

    Attributes:
        id: `run:` and its uid, `plan:` and its name, or `current`.
        note: where it comes from.
        figures: key of `COLUMNS` -> figure; None: not known.
    """

    id: str
    name: str
    note: str
    plan: Plan
    run: Run | None
    figures: Mapping[str, float | None]


class Column(NamedTuple):
    """A figure that records are compared by; `better`: 1 when more is, -1 when less is, 0 when neither."""

    key: str
    title: str
    help: str
    kind: Literal["metric", "cost", "count"]
    better: Literal[1, -1, 0]
    text: Callable[[Any], str] = str


COLUMNS = (
    Column("forecast", "Forecast", "Validation metric that the plan is expected to reach.", "metric", 1),
    Column("validation", "Validation", "Metric on the validation data after the run.", "metric", 1),
    Column("test", "Test", "Metric on the held-out test data after the run.", "metric", 1),
    Column("peak_bytes", "Peak, modelled", "Modelled peak memory of the plan's step.", "cost", -1, fmt.size),
    Column("process_bytes", "Process, measured", "Peak of the process that trained.", "cost", -1, fmt.size),
    Column("predicted_ms", "Step, predicted", "Time of a step on the device.", "cost", -1, fmt.milliseconds),
    Column("step_ms", "Step, measured", "Median time of the run's steps.", "cost", -1, fmt.milliseconds),
    Column("duration_s", "Trained for", "Time of all steps of the run.", "cost", -1, fmt.duration),
    Column("tensors", "Tensors", "How many learn.", "count", 0, "{:g}".format),
)  # fmt: skip


def current_record(plan: Plan, prediction: Prediction) -> Record:
    return Record(CURRENT, "This plan", "as it is now", plan, None, _predicted(plan, prediction))


def plan_record(name: str, plan: Plan, prediction: Prediction | None) -> Record:
    made_by = plan.provenance.get("made_by", "")
    note = f"plan, {made_by}" if made_by else "plan"
    return Record(f"plan:{name}", name, note, plan, None, _predicted(plan, prediction))


def run_record(run: Run, prediction: Prediction | None) -> Record:
    when = time.strftime("%d %b %H:%M", time.localtime(run.created)).lstrip("0")
    ended = "" if run.status == "done" else f", {run.status}"
    planned = f" of {run.planned_steps}" if run.planned_steps and run.status != "done" else ""
    steps = f"{run.began_at + run.steps}{planned} steps"
    measured = {
        "validation": run.validation_metric, "test": run.metric, "step_ms": run.step_ms,
        "process_bytes": run.measured_peak_bytes, "duration_s": run.duration_s,
    }  # fmt: skip
    return Record(
        f"run:{run.uid}",
        f"Run {run.id}{f' · {run.name}' if run.name else ''}",
        f"{target_name(run.target)}, {steps}, {when}{ended}",
        run.plan,
        run,
        _predicted(run.plan, prediction) | measured,
    )


def _predicted(plan: Plan, prediction: Prediction | None) -> dict[str, float | None]:
    figures, forecast = prediction and prediction.figures, prediction and prediction.forecast
    return {
        "forecast": forecast and forecast.metric, "peak_bytes": figures and figures.peak_bytes,
        "predicted_ms": figures and figures.step_ms, "tensors": len(plan.tensors),
    }  # fmt: skip


def table_rows(
    records: Sequence[Record], chosen: Iterable[str], baseline: str, metric: fmt.MetricScale
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Columns and rows of `components/records.js`; a column in which nothing is known is left out.

    Args:
        baseline: id of the record that the others are compared with; empty for none.
    """
    shown = [c for c in COLUMNS if any(r.figures.get(c.key) is not None for r in records)]
    base = next((r for r in records if r.id == baseline), None)
    rows = []
    for record in records:
        cells = []
        for column in shown:
            value = record.figures.get(column.key)
            text = metric.level(value) if column.kind == "metric" else column.text(value)
            other = None if base is None or base is record else base.figures.get(column.key)
            delta, level = difference(column, value, other, metric)
            cells.append({"text": text, "delta": delta, "level": level})
        rows.append({
            "id": record.id, "name": record.name, "note": record.note, "cells": cells,
            "on": record.id == baseline or record.id in set(chosen), "pinned": record.id == baseline,
            "opens": record.id != CURRENT,
        })  # fmt: skip
    return [{"title": c.title, "help": c.help} for c in shown], rows


def difference(
    column: Column, value: float | None, base: float | None, metric: fmt.MetricScale
) -> tuple[str, Level]:
    """How a figure differs from the baseline's, and whether that is good or bad; small ones are neither."""
    if value is None or base is None or not math.isfinite(value - base):
        return "", ""
    more = value - base
    if column.kind == "count":
        return (f"{more:+g}".replace("-", fmt.MINUS) if more else "same"), ""
    if column.kind == "metric":
        text, step = metric.gain(more), METRIC_STEP * (1 if metric.is_share else abs(base))
    else:
        text, step = fmt.change(value, base), COST_STEP * abs(base)
    counts = abs(more) >= step * (1 - 1e-9) and more != 0
    return text, ("better" if more * column.better > 0 else "worse") if counts else ""


class LossCurve(NamedTuple):
    """Losses of a run, over steps from its beginning."""

    name: str
    steps: list[int]
    losses: list[float]


def loss_curves(records: Iterable[Record], smoothing: float) -> list[LossCurve]:
    """Of the runs among the records."""
    return [
        LossCurve(
            r.name, [r.run.began_at + i for i in range(1, len(r.run.losses) + 1)],
            smoothed(r.run.losses, smoothing),
        )
        for r in records
        if r.run is not None and r.run.losses
    ][:MOST_CURVES]  # fmt: skip


def smoothed(values: Sequence[float], weight: float) -> list[float]:
    """The exponential moving average, without a bias to its beginning; NaN or infinite values count as none.

    Args:
        weight: of what came before, from 0 (nothing is smoothed) up to, but not, 1.
    """
    found, average, total = [], 0.0, 0.0
    for value in values:
        if not math.isfinite(value):
            found.append(math.nan)
            continue
        average = weight * average + (1 - weight) * value
        total = weight * total + (1 - weight)
        found.append(average / total)
    return found


def differing_tensors(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Head and lines of a table of the tensors that not all of these plans train alike."""
    lines = []
    names = dict.fromkeys(fqn for record in records for fqn in record.plan.model)
    for fqn in names:
        trained = [record.plan.tensors.get(fqn) for record in records]
        if all(t == trained[0] for t in trained):
            continue
        shares = [0.0 if t is None else r.plan.ratio(fqn) for r, t in zip(records, trained)]
        texts = [fmt.percent(share) if share else "frozen" for share in shares]
        for i, share in enumerate(shares):
            if i and share and share == shares[0] and trained[i] != trained[0]:
                texts[i] += ", others"  # as many channels, and not the same
        lines.append([fqn, *texts])
    return ["Tensor", *(record.name for record in records)], lines
