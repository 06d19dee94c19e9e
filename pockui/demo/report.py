"""Shows a comparison: on the terminal, as one HTML page that needs nothing else, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from ..info.format import (
    MINUS,
    UNKNOWN,
    MetricScale,
    accuracy,
    change,
    duration,
    flops,
    milliseconds,
    percent,
    significant,
    size,
)
from ..info.palette import DARK, LIGHT
from .answers import answers_text
from .charts import forecast_chart, plan_map, process_chart, tradeoff
from .predictions import (
    FORECAST_COLUMNS,
    PROCESS_COLUMNS,
    PROCESS_NOTE,
    forecast_note,
    forecast_table,
    interval_text,
    prediction_findings,
    process_table,
)
from .results import RUNTIMES, Report, Row, write_text


class Line(NamedTuple):
    """A row of the big table, as text."""

    method: str
    runtime: str
    metric: str
    step: str
    speedup: str
    modelled: str
    measured: str
    measured_ratio: str
    with_weights: str
    whole: str
    reason: str
    is_reference: bool
    is_auto: bool
    step_share: float  # of the slowest row, for a bar
    measured_share: float


class Tile(NamedTuple):
    """A headline figure of the automatic plan, beside the reference's."""

    label: str
    value: str
    against: str
    note: str


def lines(report: Report) -> list[Line]:
    """Every row, in the order of methods and runtimes, losing ones included."""
    order = {m.key: i for i, m in enumerate(report.methods)}
    rows = sorted(report.rows, key=lambda r: (order[r.method], list(RUNTIMES).index(r.runtime)))
    slowest = max((r.step_ms for r in rows if r.step_ms is not None), default=0.0)
    largest = max((r.over_loaded_bytes for r in rows if r.over_loaded_bytes is not None), default=0)
    return [_line(report, row, slowest, largest) for row in rows]


def _line(report: Report, row: Row, slowest: float, largest: float) -> Line:
    method = report.method(row.method)
    frozen_only = row.runtime != "openvino" and any(r < 1 for r in method.ratios.values())
    return Line(
        method=method.label,
        runtime=RUNTIMES[row.runtime] + (" (whole tensors)" if frozen_only else ""),
        metric=metric_text(row),
        step=_step(row),
        speedup=times(report.speedup(row)),
        modelled=size(method.peak_bytes) if row.runtime == "openvino" else UNKNOWN,
        measured=size(row.over_loaded_bytes),
        measured_ratio=times(report.memory_ratio(row)),
        with_weights=size(row.over_imported_bytes),
        whole=size(row.whole_peak_bytes),
        reason=row.reason,
        is_reference=row == report.reference,
        is_auto=row.method == "auto" and row.runtime == "openvino",
        step_share=(row.step_ms or 0) / slowest if slowest else 0,
        measured_share=max(row.over_loaded_bytes or 0, 0) / largest if largest else 0,
    )


def metric_text(row: Row) -> str:
    """`97.3 ± 0.4 %`."""
    return accuracy(row.metrics)


def _step(row: Row) -> str:
    if row.step_ms is None:
        return UNKNOWN
    if row.step_q1_ms is None or row.step_q3_ms is None:
        return milliseconds(row.step_ms)
    return f"{milliseconds(row.step_ms)} [{significant(row.step_q1_ms)}–{significant(row.step_q3_ms)}]"


def times(ratio: float | None) -> str:
    """`7.1×`."""
    return UNKNOWN if ratio is None else f"{significant(ratio, 2)}×"


def points(difference: float | None) -> str:
    """A difference of shares in percentage points: `−0.3 points`."""
    if difference is None:
        return UNKNOWN
    return f"{MINUS if difference < 0 else '+'}{abs(100 * difference):.1f} points"


def tiles(report: Report) -> list[Tile]:
    """The automatic plan on OpenVINO against full fine-tuning in eager PyTorch."""
    auto, full = report.row("auto", "openvino"), report.reference
    if auto is None or full is None:
        return []
    method, everything = report.method("auto"), report.method("full")
    gain = None if auto.mean is None or full.mean is None else auto.mean - full.mean
    speedup, memory = report.speedup(auto), report.memory_ratio(auto)
    found = [
        Tile("Accuracy", metric_text(auto), f"{metric_text(full)} in full", points(gain)),
        Tile(
            "Time of a step", milliseconds(auto.step_ms), f"{milliseconds(full.step_ms)} in full",
            UNKNOWN if speedup is None else f"{times(speedup)} as fast{'' if speedup >= 1 else ': slower'}",
        ),
        Tile(
            "Measured peak", size(auto.over_loaded_bytes), f"{size(full.over_loaded_bytes)} in full",
            f"{times(memory)} the memory",
        ),
        Tile(
            "Modelled peak", size(method.peak_bytes), f"{size(everything.peak_bytes)} in full",
            f"{times(method.peak_bytes / everything.peak_bytes)} the memory",
        ),
    ]  # fmt: skip
    if (forecast := method.expected) is not None:
        reached = f"reached {accuracy(forecast.reached)}" if forecast.reached else ""
        level = MetricScale(forecast.metric).level(forecast.metric)
        found.append(Tile("Forecast", level, interval_text(forecast), reached))
    if (process := method.process) is not None:
        off = change(process.predicted_bytes, process.measured_bytes)
        said = f"measured {size(process.measured_bytes)}"
        found.append(Tile("Process peak, predicted", size(process.predicted_bytes), said, f"{off} off"))
    return found


def findings(report: Report) -> list[str]:
    """What the figures say, the unwelcome included."""
    said = []
    auto, full = report.row("auto", "openvino"), report.reference
    trained = [r for r in report.rows if r.mean is not None and r.runtime == "openvino"]
    if auto is not None and auto.mean is not None and trained:
        mean = auto.mean
        better = sorted((r for r in trained if (r.mean or 0) > mean), key=lambda r: -(r.mean or 0))
        if better:
            names = ", ".join(
                f"{report.method(r.method).label} ({points((r.mean or 0) - mean)})" for r in better
            )
            said.append(f"More accurate than the automatic plan: {names}.")
        else:
            said.append("No other method is more accurate than the automatic plan.")
        noise = max((r.spread or 0.0 for r in trained), default=0.0)
        if noise:
            said.append(
                f"Accuracy varies by up to ± {100 * noise:.1f} points between seeds (sample standard "
                "deviation); smaller differences say little."
            )
        elif len(auto.metrics) < 2:
            said.append(
                "One seed only: differences of a point or two say little. Run without --quick for more."
            )
    if auto is not None and auto.step_ms is not None:
        faster = [r for r in report.rows if r.step_ms is not None and r.step_ms < auto.step_ms]
        if faster:
            names = ", ".join(
                f"{report.method(r.method).label} on {RUNTIMES[r.runtime]} ({milliseconds(r.step_ms)})"
                for r in sorted(faster, key=lambda r: r.step_ms or 0)
            )
            said.append(f"Faster a step than the automatic plan: {names}.")
    if full is not None and full.step_ms is not None:
        slower = [
            r for r in report.rows if r.step_ms is not None and r is not full and r.step_ms > full.step_ms
        ]
        for r in slower:
            said.append(
                f"Slower than full fine-tuning in eager PyTorch: {report.method(r.method).label} on "
                f"{RUNTIMES[r.runtime]} ({times(report.speedup(r))} as fast)."
            )
    for key, difference in report.agreement.items():
        ours, theirs = report.row(key, "openvino"), report.row(key, "eager")
        assert ours is not None
        assert theirs is not None
        said.append(
            f"{report.method(key).label}, the same runs on both: {metric_text(ours)} on OpenVINO, "
            f"{metric_text(theirs)} in eager PyTorch. Losses of the first three steps agree to "
            f"{difference:.0e}; rounding grows from step to step, the more the higher the rate."
        )
    said += prediction_findings(report)
    said += [answers_text(report)] if report.answers else []
    edge = [m.label for m in report.methods if m.lr_on_edge]
    if edge:
        said.append(
            f"The best learning rate is the smallest or largest that was tried for {', '.join(edge)}: "
            "one further out might serve them better."
        )
    if report.settings.get("baselines") is False:
        adapters = " and LoRA" if report.settings.get("adapters") else ""
        said.append(f"ElasticTrainer's selection{adapters} not compared by --quick: --all-baselines does.")
    missing = [r for r in report.rows if r.reason]
    said += [
        f"{report.method(r.method).label} on {RUNTIMES[r.runtime]} has no figures: {r.reason}."
        for r in missing
    ]
    return said


# ---------------------------------------------------------------- HTML


def render(report: Report) -> str:
    """The page, with style and drawings inside."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("pockui.demo", "."), PackageLoader("pockui", ".")]),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        size=size, ms=milliseconds, percent=percent, flops=flops, duration=duration, significant=significant
    )
    return environment.get_template("report.html.j2").render(
        report=report, lines=lines(report), tiles=tiles(report), findings=findings(report),
        tradeoff=tradeoff(report), plan_map=plan_map(report), light=LIGHT, dark=DARK,
        forecast_chart=forecast_chart(report), process_chart=process_chart(report),
        predictions=predictions(report),
        rates=sorted({t.lr for m in report.methods for t in m.trials}), trial=_trial,
    )  # fmt: skip


def _trial(report: Report, key: str, lr: float) -> str:
    found = [t for t in report.method(key).trials if t.lr == lr]
    if not found:
        return UNKNOWN
    return "diverged" if found[0].metric is None else percent(found[0].metric)


def write(report: Report, out: Path) -> tuple[Path, Path]:
    """`report.json` and `report.html` in `out`."""
    data, page = out / "report.json", out / "report.html"
    report.save(data)
    write_text(page, render(report))
    return data, page


# ---------------------------------------------------------------- terminal

COLUMNS = (
    "Method", "Runtime", ">Accuracy", ">Step", ">Speed", ">Modelled", ">Measured", ">of full", ">Process",
)  # fmt: skip


def table(report: Report) -> list[Sequence[str]]:
    """The big table for a terminal; `findings` tells why a row is empty."""
    return [
        (
            f"{line.method}{'*' if line.is_reference else ''}",
            line.runtime,
            line.metric,
            line.step.partition(" [")[0],
            line.speedup,
            line.modelled,
            line.measured,
            line.measured_ratio,
            line.whole,
        )
        for line in lines(report)
    ]


NOTE = (
    "* the reference of all ratios. Modelled: peak bytes by liveness, weights included. Measured: peak "
    "memory of a fresh process over the same process with its model loaded. Process: its whole peak."
)


class PredictionTable(NamedTuple):
    """A table of what was predicted beside what was measured."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str


def predictions(report: Report) -> list[PredictionTable]:
    """Those that the report has figures for; one of an earlier release has none."""
    found = [
        PredictionTable("Forecasts", FORECAST_COLUMNS, forecast_table(report), forecast_note(report)),
        PredictionTable("Memory of the process", PROCESS_COLUMNS, process_table(report), PROCESS_NOTE),
    ]
    return [table for table in found if table.rows]


# ---------------------------------------------------------------- Markdown


def markdown(report: Report) -> str:
    """The comparison for a repository: the big table, what it says, and how it was made."""
    rates = sorted({t.lr for m in report.methods for t in m.trials})
    s = report.settings
    parts = [
        f"# {report.title}",
        f"`{report.command}`, {report.created[:10]}: {report.machine['cpu']}, {s['threads']} threads, "
        f"{', '.join(f'{name} {version}' for name, version in report.versions.items() if version)}. "
        f"{duration(sum(report.seconds.values()))} in all.",
        f"{report.metric.capitalize()}: mean ± sample standard deviation over {len(s['seeds'])} seeds. "
        f"{NOTE.replace('*', chr(92) + '*')}",
        _pipes(COLUMNS, table(report)),
        "\n".join(f"- {finding}" for finding in findings(report)),
        *(f"{p.note}\n\n{_pipes(p.columns, p.rows)}" for p in predictions(report)),
        f"The automatic plan had {size(report.budget_bytes)}: {report.budget_rule}. Every method had "
        f"the same batches, heads, seeds and {s['steps']} steps, and its learning rate by trials of "
        f"{s['tuning_steps']} steps on the validation split: the same rates, and further out where the best "
        "of them lay at an end (the best is marked):",
        _pipes(
            ["Method", *(f">{lr:g}" for lr in rates)],
            [
                [m.label, *(_trial(report, m.key, lr) + (" ✓" if m.lr == lr else "") for lr in rates)]
                for m in report.methods
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _pipes(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    heads = [c.removeprefix(">") for c in columns]
    rules = ["--:" if c.startswith(">") else "---" for c in columns]
    cells = [["" if cell == UNKNOWN else cell for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, rules, *cells])


def summary(report: Report) -> dict[str, Any]:
    """What `--json` prints."""
    return report.model_dump(mode="json", by_alias=True)
