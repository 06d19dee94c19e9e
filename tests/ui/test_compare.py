"""Runs and plans of a study side by side."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
import pytest

from pockgraph.errors import PockError
from pockgraph.study import Run, Study
from pockui.comparison import Comparison
from pockui.facts import read_facts
from pockui.info import charts
from pockui.info.chart_svg import chart_svg
from pockui.info.format import MetricScale
from pockui.info.palette import DARK
from pockui.info.records import (
    COLUMNS,
    CURRENT,
    LossCurve,
    difference,
    differing_tensors,
    loss_curves,
    smoothed,
    table_rows,
)
from pockui.jobs import Jobs
from pockui.state import State
from pockui.training import Training
from pockui.views.compare import Compare

COLUMN = {column.key: column for column in COLUMNS}


@pytest.fixture
def kept(study_path: Path, tmp_path: Path) -> Path:
    """A study with two runs, one of them cancelled, and a plan that is kept."""
    path = Path(shutil.copy(study_path, tmp_path / "study.db"))
    profile = read_facts(path).profile
    head, more = profile.presets["head"], {**profile.presets["head"], "blocks.1.0.weight": 0.5}
    with Study(path) as study:
        losses = tuple(2.0 / (i + 1) for i in range(20))
        study.add_run(
            Run(profile.plan(head), "small", target="torch", steps=20, losses=losses, metric=0.8, step_ms=2.0)
        )
        study.add_run(
            Run(
                profile.plan(more), "large", "cancelled", target="onnx", steps=3, planned_steps=20,
                losses=losses[:3], metric=None, baseline=0.25, step_ms=3.0,
            )
        )  # fmt: skip
        study.save_plan("both", profile.plan(more))
    return path


@pytest.fixture
def kept_state(kept: Path) -> State:
    state = State()
    state.show(read_facts(kept))
    return state


def test_differences_count_beyond_a_point_or_a_twentieth() -> None:
    share, loss = MetricScale(0.9), MetricScale(17.0)
    assert difference(COLUMN["test"], 0.915, 0.90, share) == ("+1.50 points", "better")
    assert difference(COLUMN["test"], 0.905, 0.90, share) == ("+0.50 points", "")
    assert difference(COLUMN["test"], 16.0, 17.0, loss)[1] == "worse"
    assert difference(COLUMN["step_ms"], 2.0, 3.0, share) == ("−33 %", "better")
    assert difference(COLUMN["step_ms"], 3.1, 3.0, share)[1] == ""
    assert difference(COLUMN["tensors"], 9, 4, share) == ("+5", "")
    assert difference(COLUMN["test"], None, 0.9, share) == ("", "")


def test_smoothing_starts_at_the_first_loss_and_keeps_a_constant() -> None:
    assert smoothed([3.0, 3.0, 3.0], 0.9) == pytest.approx([3.0, 3.0, 3.0])
    assert smoothed([4.0, 2.0], 0.0) == [4.0, 2.0]
    rough = smoothed([4.0, 2.0, 4.0, 2.0], 0.9)
    assert rough[0] == 4.0
    assert max(rough[1:]) - min(rough[1:]) < 1.1


def test_figures_that_are_not_finite_are_neither_better_nor_worse() -> None:
    share = MetricScale(0.9)
    for value, base in ((math.nan, 0.9), (math.inf, 0.9), (0.9, -math.inf), (math.inf, math.inf)):
        assert difference(COLUMN["test"], value, base, share) == ("", "")
        assert difference(COLUMN["step_ms"], value, base, share) == ("", "")


@pytest.mark.parametrize(
    "losses", [(1.0, 0.5, math.nan), (2.0, math.inf, 1.0, 0.5), (math.nan,), (-math.inf, 3.0)]
)
def test_curves_of_trainings_that_diverged_are_drawn(losses: tuple[float, ...]) -> None:
    finite = [loss for loss in losses if math.isfinite(loss)]
    soft = smoothed(losses, 0.6)
    assert [math.isfinite(a) for a in soft] == [math.isfinite(a) for a in losses]
    assert [a for a in soft if math.isfinite(a)] == smoothed(finite, 0.6)
    steps = [*range(1, len(losses) + 1)]
    drawn = [
        charts.losses_chart([LossCurve("a", steps, soft)], DARK),
        charts.loss_chart(steps, losses, len(losses), DARK),
        charts.metric_chart(steps, losses, len(losses), MetricScale(0.9), DARK),
    ]
    for figure in drawn:
        picture = chart_svg(figure, "losses", DARK.paper)
        assert not {"nan", "inf"} & set(re.findall("[a-z]+", picture))
        assert len(figure["data"][0]["x"]) == len(finite)


def test_all_that_a_study_keeps_is_listed_pinned_and_opened(kept_state: State, kept: Path) -> None:
    comparison = Comparison(kept_state)
    comparison.read()
    ids = [record.id for record in comparison.records]
    names = [record.name for record in comparison.records]
    assert names == ["This plan", "Run 2 · large", "Run 1 · small", "both"]
    assert "ONNX Runtime, 3 of 20 steps" in comparison.records[1].note
    assert comparison.records[1].note.endswith("cancelled")
    assert comparison.chosen == ids[:3]

    comparison.pin(ids[2])
    columns, rows = table_rows(
        comparison.records, comparison.chosen, comparison.baseline, kept_state.facts.metric
    )
    assert [c["title"] for c in columns] == [
        "Forecast", "Test", "Peak, modelled", "Step, measured", "Tensors"
    ]  # fmt: skip
    step = next(i for i, c in enumerate(columns) if c["title"] == "Step, measured")
    assert rows[1]["cells"][step] == {"text": "3.00 ms", "delta": "+50 %", "level": "worse"}
    assert rows[2]["pinned"]
    assert not any(cell["delta"] for cell in rows[2]["cells"])
    assert comparison.compared[0].id == ids[2], "the baseline comes first"

    comparison.open(ids[1])
    assert kept_state.origin == "kept"
    assert kept_state.plan.ratio("blocks.1.0.weight") == 0.5

    for name, why in (("both", "already"), (" ", "Type a name")):
        with pytest.raises(PockError, match=why):
            comparison.keep(name)
    comparison.keep("mine")
    with Study(kept, read_only=True) as study:
        assert study.plan("mine").tensors == kept_state.plan.tensors
    assert comparison.records[3].name == "mine", "newest first"


def test_tensors_and_losses_of_what_is_compared(kept_state: State) -> None:
    comparison = Comparison(kept_state)
    comparison.read()
    _, large, small, both = comparison.records
    head, lines = differing_tensors([small, large])
    assert head == ["Tensor", "Run 1 · small", "Run 2 · large"]
    assert lines == [["blocks.1.0.weight", "frozen", "50 %"]]
    assert differing_tensors([large, both])[1] == []
    curves = loss_curves([small, large, both], 0.0)
    assert [(c.name, c.steps[-1]) for c in curves] == [("Run 1 · small", 20), ("Run 2 · large", 3)]
    resumed = replace(large.run, began_at=5)
    assert loss_curves([large._replace(run=resumed)], 0.0)[0].steps == [6, 7, 8]
    figure = charts.losses_chart(curves, DARK)
    assert len(go.Figure(figure).data) == 2, "Plotly knows all its attributes"


def test_the_view_follows_edits_and_says_what_to_do_when_empty(kept_state: State, tmp_path: Path) -> None:
    view = Compare(kept_state, Training(kept_state, Jobs(), tmp_path / "out"))
    assert len(view._table.rows) == 4
    assert view._losses.visible
    assert "Pin one as the baseline" in view._hint.object
    view._edited({"kind": "pin", "id": view._table.rows[1]["id"], "seq": 1})
    assert view._table.rows[1]["pinned"]
    assert "coloured from 5 %" in view._hint.object
    assert "blocks.1.0.weight" in view._tensors.object
    for row in view._table.rows:
        view._edited({"kind": "choose", "id": row["id"], "on": False, "seq": 2})
    assert [r.id for r in view.comparison.compared] == [view._table.rows[1]["id"]], "the baseline stays"
    view._edited({"kind": "pin", "id": view._table.rows[1]["id"], "seq": 3})
    assert not view._losses.visible
    view._keep_plan()
    assert "Type a name" in view._said.object


def test_a_study_without_runs_says_how_to_get_one(study_path: Path, tmp_path: Path) -> None:
    state = State()
    state.show(read_facts(shutil.copy(study_path, tmp_path)))
    view = Compare(state, Training(state, Jobs(), tmp_path / "out"))
    assert [row["id"] for row in view._table.rows] == [CURRENT]
    assert "Train this plan" in view._hint.object
