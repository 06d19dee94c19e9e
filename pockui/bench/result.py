"""What a benchmark found, as values and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pockgraph.measure import MeasureError, StepFigures, figures_to_json

from ..demo.results import write_text
from .ceilings import Ceilings, Cost
from .contenders import label
from .prepare import Made
from .scenarios import scenario

SCHEMA = "pockui.bench/1"
PRUNE_GOAL_MS, QUERY_GOAL_MS = 1_000.0, 200.0
Rows = Mapping[str, StepFigures | MeasureError]


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
        rows: a contender's key (`contenders.label` has it in words) -> figures, or the reason why there are
            none.
        own_ms: this project's own times.
        made: row of an artefact -> what it took to make it.
        costs: row -> what its step has to do.
        ceilings: None where they were not measured.
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
    made: dict[str, Made] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    ceilings: Ceilings | None = None
    scenario: str = ""

    def floor_ratio(self, row: str) -> float | None:
        """A step as a multiple of what it would take at the machine's ceilings."""
        figures, cost = self.rows[row], self.costs.get(row)
        if isinstance(figures, MeasureError) or cost is None or self.ceilings is None:
            return None
        return figures.time.median_ms / self.ceilings.floor_ms(cost)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA, "scenario": self.scenario, "title": self.title, "command": self.command,
            "quick": self.quick, "machine": self.machine, "versions": self.versions,
            "settings": self.settings,
            "ceilings": self.ceilings and asdict(self.ceilings),
            "rows": {key: self._row(key) for key in self.rows},
            "own_ms": self.own_ms, "goals": [asdict(g) | {"met": g.met} for g in self.goals],
        }  # fmt: skip

    def _row(self, key: str) -> dict[str, Any]:
        figures = self.rows[key]
        if isinstance(figures, MeasureError):
            return {"reason": str(figures)}
        row: dict[str, Any] = figures_to_json(figures)
        if key in self.costs:
            row |= asdict(self.costs[key]) | {"step_per_floor": self.floor_ratio(key)}
        if key in self.made:
            made = self.made[key]
            row |= {
                "build_ms": made.build_ms, "compile_ms": made.compile_ms,
                "compile_peak_bytes": made.peak_bytes, "disk_bytes": made.disk_bytes,
            }  # fmt: skip
        return row

    def save(self, path: Path) -> None:
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")


def goals(which: str, rows: Rows, own_ms: Mapping[str, float]) -> tuple[Goal, ...]:
    """Every goal of a scenario whose rows took part, with what was measured."""
    chosen = scenario(which)
    speed = [
        Goal(f"{label(fast)}, against {label(slow)}", speedup(rows, slow, fast), wanted, "x")
        for (slow, fast), wanted in chosen.speed_goals
        if slow in rows and fast in rows
    ]
    ready: Sequence[Goal] = ()
    if chosen.compile_goal_ms is not None:
        name = "Model → compiled step (task, graph, preset, OpenVINO)"
        ready = (Goal(name, own_ms.get("compiled_step"), chosen.compile_goal_ms, "ms"),)
    return (
        *speed,
        *ready,
        Goal("Pruning a built graph for another plan", own_ms["prune"], PRUNE_GOAL_MS, "ms"),
        Goal("One budget query, all contributions known", own_ms["budget_query"], QUERY_GOAL_MS, "ms"),
    )


def speedup(rows: Rows, slow: str, fast: str) -> float | None:
    """How many times as fast; None when one of them has no figures."""
    a, b = rows.get(slow), rows.get(fast)
    if not (isinstance(a, StepFigures) and isinstance(b, StepFigures)):
        return None
    return a.time.median_ms / b.time.median_ms
