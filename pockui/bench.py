"""`pockui bench`: a training step on OpenVINO against PyTorch, interleaved in one run.

Every row is a process of its own; all take turns for a few steps, in an order drawn anew each round.
Both sides: SGD with momentum, the same batch, the same number of threads, batch norm in evaluation
mode. Beside the steps stand the times of this project itself: to a compiled step, to prune for another
plan, to answer a budget query.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pockgraph as pg
from pockgraph.errors import PockError
from pockgraph.files import ScratchFolder
from pockgraph.machine import machine, usable_cores
from pockgraph.measure import (
    MeasureError,
    StepFigures,
    artifact_command,
    batch_file,
    figures_to_json,
    measure_interleaved,
)

from .demo.results import write_text
from .eager import eager_command
from .info.format import UNKNOWN, milliseconds, significant, size
from .project import DEMOS, load_task
from .versions import versions

SCHEMA = "pockui.bench/1"
OPTIMIZER = pg.SGD(lr=1e-2, momentum=0.9)
QUERIES = 10
RATIOS = (1.0, 0.5, 0.25, 0.125)
Progress = Callable[[str, int, int, str], None]

ROWS = {
    "eager full": "PyTorch eager, full",
    "eager preset": "PyTorch eager, preset's tensors",
    "compiled full": "torch.compile, full",
    "openvino full": "OpenVINO, full",
    "openvino preset": "OpenVINO, preset",
    "openvino forward": "OpenVINO, forward only",
    "onnx full": "ONNX Runtime, full",
    "onnx preset": "ONNX Runtime, preset",
}
TARGETS = ("openvino", "onnx")
# (rows compared, times as fast), per model
SPEED_GOALS = {
    "vision": ((("eager full", "openvino preset"), 5.0), (("eager preset", "openvino preset"), 1.5)),
    "text": ((("eager full", "openvino preset"), 2.0),),
}
COMPILE_GOAL_MS = {"vision": 15_000.0, "text": 30_000.0}
PRUNE_GOAL_MS, QUERY_GOAL_MS = 1_000.0, 200.0


@dataclass(frozen=True)
class Goal:
    """A figure that this project wants to reach.

    Attributes:
        wanted, measured: in `unit`, `"x"` (at least) or `"ms"` (at most).
    """

    name: str
    measured: float | None
    wanted: float
    unit: str

    @property
    def met(self) -> bool:
        if self.measured is None:
            return False
        return self.measured >= self.wanted if self.unit == "x" else self.measured <= self.wanted


@dataclass(frozen=True)
class Bench:
    """What a benchmark found.

    Attributes:
        rows: key of `ROWS` -> figures, or the reason why there are none.
        own_ms: this project's own times.
    """

    title: str
    context: str
    command: str
    quick: bool
    machine: dict[str, Any]
    versions: dict[str, str | None]
    settings: dict[str, Any]
    rows: dict[str, StepFigures | MeasureError]
    own_ms: dict[str, float]
    goals: tuple[Goal, ...]

    def to_dict(self) -> dict[str, Any]:
        rows = {
            k: {"reason": str(f)} if isinstance(f, MeasureError) else figures_to_json(f)
            for k, f in self.rows.items()
        }
        return {
            "schema": SCHEMA, "title": self.title, "command": self.command, "quick": self.quick,
            "machine": self.machine, "versions": self.versions, "settings": self.settings, "rows": rows,
            "own_ms": self.own_ms, "goals": [asdict(g) | {"met": g.met} for g in self.goals],
        }  # fmt: skip

    def save(self, path: Path) -> None:
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")


def run(
    which: str,
    options: Mapping[str, int],
    *,
    quick: bool,
    compiled: bool,
    threads: int | None,
    command: str,
    progress: Progress,
) -> Bench:
    """Benchmark a demo model.

    Args:
        which: `vision` or `text`.
        options: of the demo's task, `batch_size` and `px` or `length`.
        progress: called with (stage, done, total, note).
    """
    threads = threads or usable_cores()
    blocks, steps = (3, 3) if quick else (10, 5)
    with ScratchFolder("bench") as folder:
        progress("From the model to a compiled step", 0, 1, "in a fresh process")
        own_ms = {"compiled_step": _time_compile(which, options, folder)}
        progress("From the model to a compiled step", 1, 1, "")

        progress("Deriving and compiling", 0, 1, "")
        graph = pg.build(load_task(which, **options), OPTIMIZER)
        batch = load_task(which, **options).example
        own_ms["prune"] = _compile(graph, folder)
        own_ms["budget_query"] = _time_query(graph)
        progress("Deriving and compiling", 1, 1, "")

        stage = "Timing steps"
        with batch_file(batch) as path:
            found = measure_interleaved(
                _commands(which, options, folder, path, threads, compiled), blocks=blocks, steps=steps,
                progress=lambda done, total, note: progress(stage, done, total, note),
            )  # fmt: skip
    shapes = ", ".join(f"{k} {'×'.join(map(str, v.shape))}" for k, v in batch.items())
    host, known = machine(), versions()
    return Bench(
        title=f"One training step, {which}: {shapes}",
        context=f"{host['cpu']}, {threads} threads each, torch {known['torch']}, openvino "
        f"{known['openvino']}, onnxruntime {known['onnxruntime']}. Medians of {blocks * steps} steps in "
        f"{blocks} rounds. Command: {command}",
        command=command, quick=quick, machine=host, versions=known,
        settings={
            **options, "threads": threads, "blocks": blocks, "steps": steps, "optimizer": OPTIMIZER.to_dict(),
            "full_peak_bytes": graph.peak_bytes,
            "preset_peak_bytes": graph.prune(pg.Plan.preset(graph)).peak_bytes,
        },
        rows=found, own_ms=own_ms, goals=goals(which, found, own_ms),
    )  # fmt: skip


def goals(
    which: str, rows: Mapping[str, StepFigures | MeasureError], own_ms: Mapping[str, float]
) -> tuple[Goal, ...]:
    """Every goal with what was measured."""
    speed = [
        Goal(f"{ROWS[fast]}, against {ROWS[slow]}", speedup(rows, slow, fast), wanted, "x")
        for (slow, fast), wanted in SPEED_GOALS[which]
    ]
    return (
        *speed,
        Goal(
            "Model → compiled step (task, graph, preset, OpenVINO)",
            own_ms["compiled_step"],
            COMPILE_GOAL_MS[which],
            "ms",
        ),
        Goal("Pruning a built graph for another plan", own_ms["prune"], PRUNE_GOAL_MS, "ms"),
        Goal("One budget query, all contributions known", own_ms["budget_query"], QUERY_GOAL_MS, "ms"),
    )


def speedup(rows: Mapping[str, StepFigures | MeasureError], slow: str, fast: str) -> float | None:
    """How many times as fast; None when one of them has no figures."""
    a, b = rows.get(slow), rows.get(fast)
    if not (isinstance(a, StepFigures) and isinstance(b, StepFigures)):
        return None
    return a.time.median_ms / b.time.median_ms


# ---------------------------------------------------------------- preparing contenders


def _compile(graph: pg.TrainGraph, folder: Path) -> float:
    """Write plan and artefacts; returns ms to prune for the slowest of three plans."""
    prune_ms = 0.0
    for plan in (pg.Plan.head(graph), pg.Plan.preset(graph), pg.Plan.full(graph)):
        start = time.perf_counter()
        graph.prune(plan)
        prune_ms = max(prune_ms, (time.perf_counter() - start) * 1e3)
    preset = pg.Plan.preset(graph)
    preset.save(folder / "preset.json")
    for target in TARGETS:
        for name, plan in (("preset", preset), ("full", pg.Plan.full(graph))):
            pg.compile(graph, plan, target=target, out=folder / f"{target}-{name}")
    return prune_ms


def _commands(
    which: str, options: Mapping[str, int], folder: Path, batch: Path, threads: int, compiled: bool
) -> dict[str, Sequence[str]]:
    def eager(**more: Any) -> Sequence[str]:
        return eager_command(
            DEMOS[which], batch, OPTIMIZER.to_dict(), threads=threads, options=options, **more
        )

    commands = {"eager full": eager(), "eager preset": eager(plan=folder / "preset.json")}
    if compiled:
        commands["compiled full"] = eager(compiled=True)
    for target in TARGETS:
        for name in ("full", "preset"):
            commands[f"{target} {name}"] = artifact_command(folder / f"{target}-{name}", batch, threads)
    commands["openvino forward"] = (*commands["openvino preset"], "--forward")
    return commands


_COMPILE_PROGRAM = """
import json, sys, time
import torch, openvino, pockgraph as pg
from pockui.bench import OPTIMIZER
from pockui.project import load_task
which, options, out = json.loads(sys.argv[1])
task = load_task(which, **options)
start = time.perf_counter()
graph = pg.build(task, OPTIMIZER)
pg.compile(graph, pg.Plan.preset(graph), out=out).trainer()
print((time.perf_counter() - start) * 1e3)
"""


def _time_compile(which: str, options: Mapping[str, int], folder: Path) -> float:
    """Ms from the model in memory to a step ready to run, in a fresh process.

    Raises:
        PockError: it failed; with its last words.
    """
    arguments = json.dumps([which, dict(options), str(folder / "first")])
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE_PROGRAM, arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise PockError(f"Compiling in a fresh process failed: {words[-1] if words else done.returncode}")
    return float(done.stdout.split()[-1])


def _time_query(graph: pg.TrainGraph) -> float:
    """Median ms of a search over a full table of contributions, for budgets from head to full.

    The gains are drawn, with noise as measured ones have it: the search runs on a model's costs, and
    measuring its contributions would take the benchmark an hour.
    """
    from pockgraph.contribution import Contribution, Gain
    from pockgraph.plan.presets import biases, head
    from pockgraph.profile.profiler import profile_of
    from pockgraph.search import search

    draw = random.Random(0)
    profile, top = profile_of(graph), head(graph)

    def gain(most: float, share: float) -> Gain:
        return Gain(most * share**0.5 + draw.gauss(0, 0.005), 0.005, 3)

    weights = {}
    for row in graph.tensors:
        if row.fqn not in top and row.kind == "weight":
            most = max(0.0, draw.gauss(0.03, 0.02))
            weights[row.fqn] = {q: gain(most, q) for q in RATIOS if q == 1 or row.channels}
    order = tuple(r.fqn for r in biases(graph))
    last = {k: gain(0.04, k / len(order)) for k in range(1, len(order) + 1)}
    contribution = Contribution(Gain(0.8, 0.01, 3), weights, last, order, tuple(top))
    low, high = profile.figures(dict.fromkeys(top, 1.0)).peak_bytes, graph.peak_bytes
    times = []
    for i in range(1, QUERIES + 1):
        budget = pg.Budget(peak_bytes=round(low + (high - low) * i / QUERIES))
        start = time.perf_counter()
        search(profile, contribution, budget)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


# ---------------------------------------------------------------- showing

COLUMNS = ("Contender", ">Step", ">Quartiles", ">Speed", ">Measured peak", ">with weights", ">Load")


def table(found: Bench) -> list[Sequence[str]]:
    """A row per contender; one that failed says why."""
    rows: list[Sequence[str]] = []
    for key, figures in found.rows.items():
        if isinstance(figures, MeasureError):
            rows.append((ROWS[key], str(figures), *itertools.repeat("", 5)))
            continue
        ratio, memory = speedup(found.rows, "eager full", key), figures.memory
        rows.append(
            (
                ROWS[key], milliseconds(figures.time.median_ms),
                f"{significant(figures.time.q1_ms)}–{significant(figures.time.q3_ms)}",
                UNKNOWN if ratio is None else f"{significant(ratio)}×",
                size(memory.over_loaded_bytes) if memory else UNKNOWN,
                size(memory.over_imported_bytes) if memory else UNKNOWN, milliseconds(figures.load_ms),
            )
        )  # fmt: skip
    return rows


def goal_table(found: Bench) -> list[Sequence[str]]:
    """Each goal, what was measured, and whether that is enough."""

    def text(goal: Goal, value: float | None) -> str:
        if value is None:
            return UNKNOWN
        return f"{significant(value)}×" if goal.unit == "x" else milliseconds(value)

    return [
        (
            g.name,
            text(g, g.measured),
            ("≥ " if g.unit == "x" else "≤ ") + text(g, g.wanted),
            "pass" if g.met else "MISS",
        )
        for g in found.goals
    ]
