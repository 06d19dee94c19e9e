"""The notebook's widgets: the same state, the same edits, without a kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any
from xml.etree import ElementTree

import comm
import numpy as np
import pytest

pytest.importorskip("anywidget")

from IPython.core.formatters import DisplayFormatter

import pockgraph as pg
from pockgraph.errors import BudgetError, PlanError, StudyError
from pockgraph.notebook_html import size_text
from pockgraph.plan import Budget, Plan
from pockui.components import properties, web
from pockui.info.layer_filter import block_menu, kind_menu
from pockui.scheduling import AtOnce
from pockui.widgets import FrontierLine, LayerBars, MemoryTimeline, Planner, TrainMonitor
from pockui.widgets.parts import BudgetBarPart, ChartPart, LayerBarsPart

WEIGHT = "blocks.1.0.weight"


def edit(part: Any, **what: Any) -> None:
    """As a browser sends it."""
    part.edit = {**what, "seq": part.ack + 1}


@pytest.fixture(autouse=True)
def _no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Edits are answered at once, also where the browser tests of this process left a loop running."""
    monkeypatch.setattr("pockui.widgets.parts._scheduler", AtOnce)


@pytest.fixture
def planner(facts) -> Planner:
    return Planner(facts.path)


def test_the_parts_have_the_properties_and_files_of_the_web_app() -> None:
    for ours, theirs, declared in (
        (LayerBarsPart, web.LayerBars, properties.LayerBars),
        (BudgetBarPart, web.BudgetBar, properties.BudgetBar),
        (ChartPart, web.Chart, properties.Chart),
    ):
        part = ours()
        names = set(declared.param) - {"name"}
        assert names <= set(part.traits(sync=True))
        assert names <= set(theirs.param)
        for name in names:
            assert getattr(part, name) == declared.param[name].default == theirs.param[name].default
        assert str(part._esm) == theirs._esm
        assert "http" not in str(part._esm).replace("http://www.w3.org/2000/svg", "")


def test_a_drag_moves_the_figures_and_its_end_the_plan(planner: Planner) -> None:
    bars, plan, tiles = planner.layers.bars, planner.plan, planner._tiles.value
    edit(bars, kind="ratio", id=WEIGHT, ratio=0.75, final=False)
    assert bars.ack == 1
    assert planner.plan is plan
    assert planner._tiles.value != tiles
    edit(bars, kind="ratio", id=WEIGHT, ratio=1, final=True)  # JavaScript has no 1.0
    assert planner.plan.ratio(WEIGHT) == 1.0
    assert bars.ratios[WEIGHT] == 1.0
    assert bars.locked == [WEIGHT]
    assert bars.selected == WEIGHT
    assert "Edited by hand. 1 tensor locked." in planner._status.value
    planner._buttons["undo"].click()
    assert (planner.plan, bars.locked) == (plan, [])
    assert planner._buttons["undo"].disabled


def test_a_budget_is_dragged_and_one_that_none_meets_says_so(planner: Planner, facts) -> None:
    bar = planner.budgets["peak_bytes"]
    edit(bar, kind="budget", value=None, final=True)
    assert planner.budget == Budget()
    assert planner.plan.predicted["peak_bytes"] == facts.known_plans["Best"].figures.peak_bytes
    edit(bar, kind="budget", value=bar.start, final=True)
    assert 'role="alert"' in planner._status.value
    assert "smallest" in planner._status.value
    assert planner.budgets["step_ms"].visible is False, "nothing was timed"


def test_setting_a_plan_moves_the_bars(planner: Planner) -> None:
    profile = planner.state.facts.profile
    planner.plan = profile.plan({WEIGHT: 0.5, "head.weight": 1.0, "head.bias": 1.0})
    assert planner.layers.bars.ratios[WEIGHT] == 0.5
    assert planner.budgets["peak_bytes"].used == pytest.approx(planner.plan.predicted["peak_bytes"] / 1e3)
    foreign = Plan(task="x", model={"w": (2, 2)}, batch={}, optimizer={"name": "sgd"}, tensors={"w": {}})
    with pytest.raises(PlanError, match="another model"):
        planner.plan = foreign
    assert planner.plan.ratio(WEIGHT) == 0.5


def test_setting_a_budget_searches_or_raises(planner: Planner, facts) -> None:
    planner.budget = Budget(extra_bytes=facts.known_plans["Head"].figures.extra_bytes)
    assert set(planner.plan.tensors) == set(facts.contribution.head)
    with pytest.raises(BudgetError, match="smallest"):
        planner.budget = Budget(peak_bytes=10)


def test_widgets_of_one_state_move_together(planner: Planner) -> None:
    apart = LayerBars(planner.state)
    edit(apart.bars, kind="lock", id="stem.weight", on=True, ratio=0)
    assert planner.layers.bars.locked == apart.bars.locked == ["stem.weight"]
    planner.state.filter = "stem"
    assert [row["id"] for row in apart.bars.rows] == ["stem.weight"]
    assert apart.children[0].children[0].value == "stem"


def test_rows_are_chosen_by_block_and_kind_of_layer(planner: Planner, facts) -> None:
    menus = {field.description: field for field in planner.layers.children[0].children}
    assert dict(menus["Block"].options) == block_menu(facts.profile.tensors)
    assert dict(menus["Kind"].options) == kind_menu(facts.rows)
    menus["Block"].value, menus["Kind"].value = "blocks.1", "linear"
    assert planner.layers.bars.rows == []
    assert "block blocks.1, linear" in planner.layers.bars.empty
    menus["Kind"].value = "conv"
    assert [row["id"] for row in planner.layers.bars.rows] == [WEIGHT]
    planner.state.param.update(block="", layer_kind="")
    assert (menus["Block"].label, menus["Kind"].label) == ("all", "all")


def traces(chart: Any) -> dict[str, Any]:
    """Of a chart, by name."""
    return {trace["name"]: trace for trace in chart.figure["data"] if "name" in trace}


def test_a_click_on_the_frontier_takes_its_plan(planner: Planner, facts) -> None:
    chart = planner.frontier.chart
    best, index = traces(chart)["frontier"], 1
    edit(chart, kind="click", index=best["customdata"][index])
    assert planner.plan is facts.frontier("peak_bytes")[best["customdata"][index]]
    assert traces(chart)["this plan"]["x"][0] == pytest.approx(best["x"][index])
    planner.state.axis = "extra_bytes"
    assert chart.figure["layout"]["xaxis"]["title"]["text"].startswith("Training memory")


def test_the_budget_is_dragged_on_the_frontier(planner: Planner, facts) -> None:
    chart, bar = planner.frontier.chart, planner.budgets["peak_bytes"]
    (line,) = (shape for shape in chart.figure["layout"]["shapes"] if shape.get("editable"))
    assert line["name"] == "Budget, Peak memory, kB"
    limit = sum(facts.known_plans[name].figures.peak_bytes for name in ("Head", "Full")) / 2 / 1e3
    edit(chart, kind="move", value=limit, final=True)
    assert chart.ack == 1
    assert planner.budget.peak_bytes == pytest.approx(1e3 * limit, abs=1)
    assert bar.value == pytest.approx(limit, abs=1e-3)
    (line,) = (shape for shape in chart.figure["layout"]["shapes"] if shape.get("editable"))
    assert line["x0"] == pytest.approx(limit, abs=1e-3)
    assert bar.used <= limit
    edit(chart, kind="move", value=None, final=True)
    assert planner.budget == Budget()


def test_the_timeline_peaks_where_the_figures_say(facts) -> None:
    shown = MemoryTimeline(facts.path)
    state = shown.state
    assert [*traces(shown.chart)][-4:] == ["full training", "the preset", "this plan", "peak"]
    before = traces(shown.chart)["peak"]["y"][0]
    assert before == pytest.approx(state.prediction.figures.peak_bytes / 1e3)
    state.set_ratio(WEIGHT, 0.0)
    assert traces(shown.chart)["peak"]["y"][0] == pytest.approx(state.prediction.figures.peak_bytes / 1e3)
    assert "Alive at the peak" in shown._alive.value
    moment = traces(shown.chart)["this plan"]["customdata"][2]
    edit(shown.chart, kind="click", index=moment)
    assert shown.step.moment == moment
    edit(shown.chart, kind="move", value=0, final=True)
    assert "Alive at this moment" in shown._alive.value
    shown._to_peak.click()
    assert "Alive at the peak" in shown._alive.value
    assert shown._to_peak.layout.display == "none"
    assert "frozen; training it would add" in shown._freezing.value


def test_a_monitor_watches_a_trainer_of_this_kernel(planner: Planner, tmp_path, monkeypatch) -> None:
    from ui_task import task

    monitor, made = TrainMonitor(planner.state), task()
    artifact = pg.compile(pg.build(made, pg.SGD(lr=0.05)), planner.plan, target="onnx", out=tmp_path / "a")
    monkeypatch.setattr("pockui.widgets.train_monitor.DRAW_S", 0)
    notes: list[tuple[str, float, str | None]] = []

    def note(change: Any) -> None:
        notes.append((monitor._note.value, change["new"], monitor._bar.layout.display))

    monitor._bar.observe(note, "value")
    losses = monitor.watch(artifact.trainer(), made.forever(seed=0), steps=12, lr=0.05)
    assert len(losses) == 12
    np.testing.assert_allclose(monitor.loss.figure["data"][0]["y"], losses)
    assert "12 steps" in monitor._note.value
    assert "left" not in monitor._note.value
    text, share, display = notes[2]
    assert "3 steps" in text
    assert " left" in text
    assert (share, display) == (0.25, None)
    assert monitor._bar.layout.display == "none"
    assert len(monitor.watch(artifact.trainer(), [next(made.forever(seed=0))] * 2)) == 2


def test_a_monitor_without_a_task_says_why_it_cannot_start(planner: Planner, monkeypatch) -> None:
    monkeypatch.setattr("pockui.training.why_not_trainable", lambda *_: "There is no module 'gone' here.")
    monkeypatch.setattr("pockui.training.Training.reference", "")
    assert "monitor.watch(trainer, batches)" in TrainMonitor(planner.state)._note.value
    monkeypatch.setattr("pockui.training.Training.reference", "gone:task")
    monitor = TrainMonitor(planner.state)
    assert monitor._start.disabled
    assert "no module" in monitor._note.value
    monitor._rate.value = "fast"
    monitor.start()
    assert "&#x27;fast&#x27; is no learning rate" in monitor._note.value


def test_a_study_that_is_open_is_taken_too_and_a_missing_one_refused(study_path, tmp_path) -> None:
    with pg.Study(study_path) as study:
        assert FrontierLine(study).state.facts.name == study.name
    with pytest.raises(StudyError):
        Planner(tmp_path / "none.db")


def test_a_notebook_loads_no_panel(facts) -> None:
    code = (
        "import sys; from pockui.widgets import Planner; Planner(sys.argv[1]).plan;"
        "print([m for m in sys.modules if m.split('.')[0] in ('panel', 'plotly', 'torch')][:3])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(facts.path)], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_where_widgets_cannot_run_there_is_a_static_figure(planner: Planner) -> None:
    monitor = TrainMonitor(planner.state)
    monitor._show_losses([3.0, 2.0, 1.0], 3, 0.1)
    shown = {
        "planner": planner, "bars": planner.layers, "frontier": planner.frontier,
        "memory": planner.timeline, "monitor": monitor,
    }  # fmt: skip
    formatter = DisplayFormatter()
    for name, widget in shown.items():
        data, _ = formatter.format(widget)
        assert "application/vnd.jupyter.widget-view+json" in data, name
        static = data["text/html"]
        ElementTree.fromstring(static)
        assert "<polyline" in static, name
        assert len(static) < 8000, name
    figures = planner.state.prediction.figures
    assert f"{size_text(figures.peak_bytes)} at most" in planner.timeline._repr_html_()
    first = next(iter(planner.plan.tensors))
    assert f"<td>{first}</td>" in planner._repr_html_()
    assert "3 steps" in monitor._repr_html_()


def test_a_planner_is_small_enough_to_send_and_its_charts_have_the_colours_of_the_page(
    facts, monkeypatch
) -> None:
    sent: list[str] = []

    class Noted(comm.DummyComm):
        def publish_msg(self, msg_type: str, data: Any = None, *_: Any, **__: Any) -> None:
            sent.append(json.dumps(data))  # all of it is JSON

    monkeypatch.setattr(comm, "create_comm", Noted)
    planner = Planner(facts.path)
    assert sum(map(len, sent)) < 600_000
    charts = planner.frontier.chart, planner.timeline.chart, planner.curves.gain, planner.curves.cost
    for chart in charts:
        assert any(json.dumps(chart.figure)[1:-1] in message for message in sent)
        assert "var(--pock-accent)" in json.dumps(chart.figure)
        assert "#" not in json.dumps([trace.get("line") for trace in chart.figure["data"]])
    before = planner.curves.cost.figure["data"][0]["y"]
    planner.state.selected = "stem.weight"
    planner.state.set_ratio("stem.weight", 0.5)
    assert planner.curves.cost.figure["data"][0]["y"] != before
    assert "without locks and rules" in traces(planner.frontier.chart)
