"""A benchmark as tables: on the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pockgraph.measure import MeasureError, StepFigures

from ..info.format import UNKNOWN, milliseconds, significant, size
from .contenders import label
from .result import Bench, Goal, speedup

BASE = "eager full"
COLUMNS = (
    "Contender", ">Step", ">Quartiles", ">Speed", ">× floor", ">Measured peak", ">with weights", ">Load",
)  # fmt: skip
PAGE_COLUMNS = (
    "Contender", ">Speed", ">× floor", ">Step", ">Quartiles", ">Peak over loaded", ">with weights",
    ">Process peak", ">Load", ">First step", ">Build", ">Compile", ">Compile peak", ">Disk",
)  # fmt: skip
GOAL_COLUMNS = ("Goal", ">Measured", ">Wanted", "")
EXPLAINED = f"""*Speed*: how many times as fast as {label(BASE)}. *× floor*: a step as a multiple of the
larger of two times: of its floating-point operations at the rate of the matrix product, and of the least it
must move (weights, state and batch, what it trains, saved activations) at the rate of the copy. *Peak over
loaded*: what training adds to the loaded process; *with weights*: what model and training add to its
libraries; *process peak*: all of it. *First step*: compiles where a library does so lazily. *Build*,
*compile* and its peak: in a fresh process, the comparison with PyTorch included. The preset's tensors are the
same on every side."""


def table(found: Bench) -> list[Sequence[str]]:
    """A row per contender, as the terminal shows it; one that failed says why."""
    rows: list[Sequence[str]] = []
    for key, figures in found.rows.items():
        if isinstance(figures, MeasureError):
            rows.append((label(key), str(figures), *[""] * (len(COLUMNS) - 2)))
            continue
        cells = _cells(found, key, figures)
        rows.append([cells[name.removeprefix(">")] for name in COLUMNS])
    return rows


def _cells(found: Bench, key: str, figures: StepFigures) -> dict[str, str]:
    """What both tables show, by the names of their columns."""
    memory, made, time = figures.memory, found.made.get(key), figures.time
    peak = size(memory and memory.over_loaded_bytes)
    return {
        "Contender": label(key),
        "Step": milliseconds(time.median_ms),
        "Quartiles": f"{significant(time.q1_ms)}–{significant(time.q3_ms)}",
        "Speed": _times(speedup(found.rows, BASE, key)),
        "× floor": _times(found.floor_ratio(key)),
        "Measured peak": peak,
        "Peak over loaded": peak,
        "with weights": size(memory and memory.over_imported_bytes),
        "Process peak": size(memory and memory.whole_peak_bytes),
        "Load": milliseconds(figures.load_ms),
        "First step": milliseconds(figures.first_step_ms),
        "Build": milliseconds(made and made.build_ms),
        "Compile": milliseconds(made and made.compile_ms),
        "Compile peak": size(made and made.peak_bytes),
        "Disk": size(made and made.disk_bytes),
    }


def goal_table(found: Bench) -> list[Sequence[str]]:
    """Each goal, what was measured, and whether that is enough."""
    return [
        (
            g.name,
            _goal_value(g, g.measured),
            ("≥ " if g.unit == "x" else "≤ ") + _goal_value(g, g.wanted),
            "pass" if g.met else "MISS",
        )
        for g in found.goals
    ]


def ceilings_text(found: Bench) -> str:
    """The machine's ceilings in words; empty where they were not measured."""
    if found.ceilings is None:
        return ""
    return (
        f"Ceilings in the same run: {found.ceilings.flops_per_s / 1e9:.0f} GFLOP/s (float32 matrix product), "
        f"{found.ceilings.bytes_per_s / 1e9:.1f} GB/s (copy)."
    )


def markdown(found: Bench) -> str:
    """The whole result as a page: ratios first, rows that lose or fail included."""
    ran = {k: f for k, f in found.rows.items() if isinstance(f, StepFigures)}
    failed = [(label(k), str(f)) for k, f in found.rows.items() if isinstance(f, MeasureError)]
    body = ([_cells(found, k, f)[name.removeprefix(">")] for name in PAGE_COLUMNS] for k, f in ran.items())
    parts = [
        f"# {found.title}", found.context, ceilings_text(found), EXPLAINED,
        _markdown_table(PAGE_COLUMNS, body),
    ]  # fmt: skip
    if failed:
        parts.append(_markdown_table(("No figures", "Reason"), failed))
    parts.append(_markdown_table(GOAL_COLUMNS, goal_table(found)))
    return "\n\n".join(p for p in parts if p) + "\n"


def _markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = ["--:" if c.startswith(">") else "---" for c in columns]
    return "\n".join([line(c.removeprefix(">") for c in columns), line(rule), *map(line, rows)])


def _goal_value(goal: Goal, value: float | None) -> str:
    return _times(value) if goal.unit == "x" else milliseconds(value)


def _times(ratio: float | None) -> str:
    return UNKNOWN if ratio is None else f"{significant(ratio)}×"
