"""The benchmark's goals and tables, from figures that are given."""

from __future__ import annotations

import pytest

from pockgraph.measure import MeasureError, StepFigures, StepTime
from pockui.bench.result import Bench, goals
from pockui.bench.tables import goal_table, table


def step(ms: float) -> StepFigures:
    return StepFigures(StepTime(ms, ms * 0.9, ms * 1.1, 30), None, 100.0, ms)


ROWS = {
    "eager full": step(500),
    "eager preset": step(170),
    "compiled full": MeasureError("no C++ compiler"),
    "openvino preset": step(80),
}
OWN = {"compiled_step": 9000.0, "prune": 300.0, "budget_query": 250.0}


def found() -> Bench:
    return Bench(
        title="t",
        context="c",
        command="pockui bench vision",
        quick=True,
        machine={},
        versions={},
        settings={},
        rows=ROWS,
        own_ms=OWN,
        goals=goals("vision", ROWS, OWN),
    )


def test_goals_pass_and_miss() -> None:
    met = [g.met for g in found().goals]
    assert met == [True, True, True, True, False]
    measured = [g.measured for g in found().goals]
    assert measured[:2] == pytest.approx([500 / 80, 170 / 80])
    assert [row[-1] for row in goal_table(found())] == ["pass"] * 4 + ["MISS"]


def test_a_goal_without_figures_is_missed() -> None:
    made = goals("text", {"eager full": MeasureError("gone"), "openvino preset": step(1)}, OWN)
    assert not made[0].met
    assert made[0].measured is None


def test_a_contender_without_figures_has_a_row_with_the_reason() -> None:
    rows = table(found())
    assert len(rows) == len(ROWS)
    assert rows[2][1] == "no C++ compiler"
    assert rows[3][3] == "6.25×"
    assert found().to_dict()["rows"]["compiled full"] == {"reason": "no C++ compiler"}
