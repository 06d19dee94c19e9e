"""What views show, from engine values: no browser, no server."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
import pytest
from ui_task import task

import pockgraph as pg
from pockgraph.contribution import Contribution, Gain
from pockgraph.errors import BudgetError
from pockgraph.profile import MemoryModel
from pockgraph.search.plan_search import Budget
from pockui.bindings import frontier_shown
from pockui.frontier_plans import FrontierPlans
from pockui.info import charts, curves
from pockui.info import format as fmt
from pockui.info.budgets import budget_range, to_limit, typed_limit
from pockui.info.costs import COSTS, is_known
from pockui.info.figure_tiles import figure_tiles
from pockui.info.frontier import frontier_info
from pockui.info.gains import interval
from pockui.info.layer_filter import LayerFilter
from pockui.info.layers import (
    BIASES,
    chosen,
    component_rows,
    component_scale,
    ratios_of,
    select_rows,
    table,
)
from pockui.info.measured_points import MeasuredPoint
from pockui.info.optimizers import optimizer_code
from pockui.info.palette import DARK, LIGHT
from pockui.info.parity import parity_badge
from pockui.info.predictions import comparison, over_budget
from pockui.info.process_memory import stacks
from pockui.info.studies import changed_s, find_studies, study_argument
from pockui.info.train_settings import TrainSettings
from pockui.info.training import loss_history, progress, result_tiles, why_not_trainable
from pockui.info.training_code import training_code


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (85_900, "85.9 kB"),
        (999_600, "1.00 MB"),
        (12_345_678, "12.3 MB"),
        (None, "–"),
    ],
)
def test_sizes_have_three_digits_and_a_unit(value: float | None, text: str) -> None:
    assert fmt.size(value) == text


def test_times_changes_and_ratios_are_written_with_their_units() -> None:
    assert fmt.milliseconds(1234) == "1.23 s"
    assert fmt.duration(3725) == "1 h 2 min"
    assert fmt.change(38, 100) == "−62 %"
    assert fmt.change(100, 100) == "same"
    assert fmt.change(1, None) == ""
    for odd in (math.nan, math.inf, -math.inf):
        assert {fmt.milliseconds(odd), fmt.size(odd), fmt.duration(odd)} == {"–"}
        assert fmt.change(odd, 2.0) == fmt.change(2.0, math.nan) == ""
    assert fmt.percent(0.125) == "12.5 %"


def test_a_metric_between_0_and_1_is_written_in_points() -> None:
    assert fmt.MetricScale(0.84).gain(0.024) == "+2.40 points"
    assert fmt.MetricScale(0.84).gain(-0.024) == "−2.40 points"
    assert fmt.MetricScale(-3.2).gain(0.024) == "+0.02"
    assert fmt.MetricScale(0.84).level(math.nan) == "–"
    assert fmt.MetricScale(0.84).level(-math.inf) == "−infinite"
    assert fmt.MetricScale(0.84).level(3e38).startswith("300,000")
    assert fmt.MetricScale(0.84).gain(math.inf) == "–"


def test_interval_is_students_and_unknown_for_one_seed() -> None:
    assert interval(Gain(1.0, math.nan, 1)) is None
    known = interval(Gain(1.0, 0.5, 4))
    assert known is not None
    assert known.high - 1.0 == pytest.approx(3.182 * 0.5 / 2, rel=1e-3)


# ---------------------------------------------------------------- prediction


def _contribution() -> Contribution:
    return Contribution(
        Gain(0.5, 0.0, 2),
        weights={"a": {0.25: Gain(0.1, 0.0, 2), 1.0: Gain(0.4, 0.0, 2)}},
        biases={2: Gain(0.2, 0.0, 2)},
        bias_order=("z", "y", "x"),
        head=("h",),
    )


@pytest.mark.parametrize(
    ("choice", "gain"),
    [
        ({}, 0.0),
        ({"a": 0.25}, 0.1),
        ({"a": 0.125}, 0.05),
        ({"a": 0.625}, 0.25),
        ({"z": 1.0, "y": 1.0}, 0.2),
        ({"z": 1.0}, 0.1),
        ({"z": 1.0, "y": 1.0, "x": 1.0}, 0.2),  # more than was measured gains no more
        ({"y": 1.0}, 0.0),  # not the last ones
        ({"a": 1.0, "unmeasured": 1.0}, 0.4),
    ],
)
def test_gain_is_additive_and_linear_between_measurements(choice: dict[str, float], gain: float) -> None:
    assert _contribution().predicted_gain(choice) == pytest.approx(gain)


def test_a_searched_plan_has_the_forecast_that_the_view_shows(facts) -> None:
    for plan in facts.frontier("peak_bytes"):
        shown = facts.predict(facts.profile.ratios_of(plan)).forecast.figures
        assert shown == pytest.approx({key: plan.predicted[key] for key in shown}, abs=1e-9)


# ---------------------------------------------------------------- layers


def test_rows_cost_what_the_profile_says_beside_the_head(facts) -> None:
    head = dict.fromkeys(facts.contribution.head, 1.0)
    alone = facts.profile.figures(head)
    row = facts.row("blocks.1.0.weight")
    whole = facts.profile.figures({**head, row.id: 1.0})
    assert row.costs["peak_bytes"] == whole.peak_bytes - alone.peak_bytes
    assert row.costs["step_ms"] is None  # nothing was timed
    assert row.steps == 8
    assert (row.prefix, row.short) == ("", "blocks.1.0")


def test_all_biases_share_a_row(facts) -> None:
    row = facts.row(BIASES)
    assert row.steps == 4
    assert chosen(BIASES, 0.5, facts.contribution) == {
        "blocks.2.0.bias": 1.0, "blocks.1.0.bias": 1.0, "blocks.0.0.bias": 0.0, "stem.bias": 0.0,
    }  # fmt: skip
    assert ratios_of({"blocks.2.0.bias": 1.0}, facts.contribution)[BIASES] == 0.25
    assert set(row.gains) <= {0.25, 0.5, 0.75, 1.0}


def test_rows_are_filtered_and_ordered(facts) -> None:
    usual = LayerFilter()
    ids = [r.id for r in select_rows(facts.rows, usual)]
    assert ids[0] == "stem.weight"
    assert "blocks.0.0.bias" not in ids
    assert "blocks.0.0.bias" in [r.id for r in select_rows(facts.rows, LayerFilter(all_tensors=True))]
    gains = [r.best for r in select_rows(facts.rows, usual, order="gain")]
    assert gains == sorted(gains, reverse=True)
    costs = [r.costs["flops"] for r in select_rows(facts.rows, usual, order="cost", cost="flops")]
    assert costs == sorted(costs, reverse=True)
    trained = [r.id for r in select_rows(facts.rows, usual, trained={"stem.bias"})]
    assert "stem.bias" in trained
    ordered = [r.id for r in select_rows(facts.rows, usual, order="gain_per_cost")]
    assert ordered[-1].startswith("head")  # what was not measured stands last


def test_component_gets_plain_values_that_json_can_carry(facts) -> None:
    import json

    rows = component_rows(facts.rows, COSTS["peak_bytes"], facts.metric)
    scale = component_scale(facts.rows, COSTS["peak_bytes"], facts.metric)
    json.dumps([rows, scale], allow_nan=False)
    stem = next(r for r in rows if r["id"] == "stem.weight")
    assert stem["marks"] == [0.0, 1.0]  # one input channel: on or off
    assert scale["gain_low"] <= 0 < scale["gain_high"]


def test_bars_show_estimated_gains_and_cards_what_was_measured_beside_them(facts) -> None:
    row = facts.row("blocks.1.0.weight")
    (shown,) = component_rows([row], COSTS["peak_bytes"], facts.metric)
    estimated = facts.forecaster.gains.weights[row.id]
    assert [point[:2] for point in shown["gains"]] == [[r, estimated[r].mean] for r in sorted(estimated)]
    for (_, mean, low, high), ratio in zip(shown["gains"], sorted(estimated)):
        assert (
            high - mean == pytest.approx(mean - low) == pytest.approx(1.6449 * estimated[ratio].std, rel=1e-4)
        )
    assert any(row.gains[r].mean != estimated[r].mean for r in row.gains), "noise was shrunk away"
    tips = dict(map(tuple, shown["tip"]))
    measured = facts.metric.gain(row.gains[1.0].mean).removesuffix(" points")
    assert f"; measured {measured}" in tips["Gain at 100 %"]
    assert row.best == max(g.mean for g in estimated.values())
    line = table([row], {}, facts.metric)[0]
    assert line[4].startswith(facts.metric.gain(estimated[1.0].mean))
    assert line[5] == facts.metric.gain(row.gains[1.0].mean)


def test_intervals_do_not_squeeze_the_bars(facts) -> None:
    scale = component_scale(facts.rows, COSTS["peak_bytes"], facts.metric)
    means = [0.0] + [g.mean for r in facts.rows for g in r.estimates.values()]
    assert scale["gain_high"] - scale["gain_low"] <= 1.8 * (max(means) - min(means)) + 1e-12


def test_table_has_a_line_per_row(facts) -> None:
    lines = table(facts.rows, {"stem.weight": 1.0}, facts.metric)
    by_name = {line[0]: line for line in lines}
    assert by_name["stem.weight"][3] == "100 %"
    assert by_name["blocks.0.0.weight"][3] == "frozen"
    assert by_name["head.weight"][3] == "head"
    assert by_name["last 4 biases"][3] == "0 of 4"


# ---------------------------------------------------------------- figures, budgets, curves, frontier


def test_tiles_compare_with_full_and_mark_what_breaks_the_budget(facts) -> None:
    full = facts.known_plans["Full"]
    budget = Budget(peak_bytes=100_000)
    shown = figure_tiles(full, full, facts.contribution.baseline.mean, facts.profile, budget)
    by_label = {t.label: t for t in shown}
    assert by_label["Peak memory"].alarm
    assert by_label["Peak memory"].note.endswith("over budget")
    assert by_label["Compute"].note == "same vs full"
    assert by_label["Step time"].value == "–"
    assert by_label["Trained"].value == "10 of 10"
    assert by_label["Forecast"].value == facts.metric.level(full.forecast.metric)
    assert by_label["Forecast"].note == facts.metric.interval(full.forecast.low, full.forecast.high)
    assert all(t.help for t in shown)


def test_the_tile_of_process_memory_gives_its_four_parts(facts) -> None:
    model = MemoryModel("openvino", 6e7, 1e6, 2e5, (1e4, 1.5, 1.25, 0.3), 0.05, 12)
    profile = facts.profile.with_memory(model)
    best = facts.known_plans["Best"]
    memory = profile.process_memory(best.choice)
    now = best._replace(figures=profile.figures(best.choice), memory=memory)
    shown = {t.label: t for t in figure_tiles(now, now, 0.5, profile, Budget(process_bytes=10**6))}
    tile = shown["Process memory"]
    assert tile.alarm
    assert re.search(r"runtime .* \+ constants .* \+ state .* \+ activations", tile.help)
    assert "Process memory" not in {
        t.label for t in figure_tiles(best, best, 0.5, facts.profile, Budget(peak_bytes=1))
    }
    assert is_known("process_bytes", profile)
    assert not is_known("process_bytes", facts.profile)


def test_processes_are_stacked_to_scale_beside_well_known_plans(facts) -> None:
    model = MemoryModel("openvino", 6e7, 1e6, 2e5, (1e4, 1.5, 1.25, 0.3), 0.05, 12)
    profile = facts.profile.with_memory(model)
    known = {
        name: p._replace(memory=profile.process_memory(p.choice)) for name, p in facts.known_plans.items()
    }
    now, full = known["Best"], known["Full"]
    shown = stacks(now, known, model, "OpenVINO", limit_bytes=full.memory.peak_bytes / 2)
    assert [s.line[0] for s in shown.stacks] == ["This plan", "Preset", "Full"]
    assert shown.columns[1:5] == ("Runtime", "Constants", "State", "Activations")
    for stack, memory in zip(shown.stacks, (now.memory, known["Preset"].memory, full.memory)):
        assert tuple(stack.line[1:]) == (*map(fmt.size, memory.parts().values()), fmt.size(memory.peak_bytes))
        share = memory.peak_bytes / max(p.memory.peak_bytes for p in (now, full))
        assert sum(stack.percents.values()) == pytest.approx(100 * share)
    assert shown.limit_percent == pytest.approx(50, abs=1)
    assert "Predicted for OpenVINO; off by less than 5 % for 9 of 10" in shown.note
    assert stacks(now, known, model, "OpenVINO", limit_bytes=1e12).limit_percent is None


def test_no_excess_within_the_budget(facts) -> None:
    head = facts.known_plans["Head"].figures
    assert over_budget(head, Budget(peak_bytes=head.peak_bytes)) == {}
    assert over_budget(head, Budget(peak_bytes=head.peak_bytes - 1)) == {"peak_bytes": 1}


def test_comparison_lists_all_plans(facts) -> None:
    lines = comparison(facts.known_plans, facts.contribution.baseline.mean)
    assert [line[0] for line in lines] == ["Head", "Preset", "Best", "Full"]
    assert "FLOP" not in lines[0][3]


def test_a_mark_on_the_slider_is_a_budget_that_its_plan_meets(facts) -> None:
    found = budget_range("peak_bytes", facts.known_plans)
    assert found is not None
    assert found.unit.name == "kB"
    for mark in found.marks:
        limit = to_limit("peak_bytes", mark["value"], found.unit)
        assert limit == facts.known_plans[mark["name"]].figures.peak_bytes
    assert to_limit("peak_bytes", None, found.unit) is None
    assert budget_range("step_ms", facts.known_plans) is None


def test_cost_curve_is_the_plans_cost_at_each_share(facts, state) -> None:
    row = facts.row("blocks.1.0.weight")
    choice = state.prediction.choice
    curve = curves.cost_curve(
        facts.profile, facts.contribution, choice, row, 0.5, COSTS["peak_bytes"], Budget(peak_bytes=150_000)
    )
    frozen = {k: v for k, v in choice.items() if k != row.id}
    assert curve.points[0].cost == pytest.approx(facts.profile.figures(frozen).peak_bytes / 1e3)
    assert len(curve.points) == 9
    assert curve.budget == 150
    onoff = facts.row("stem.weight")
    args = (onoff, 0.0, COSTS["flops"], Budget())
    assert len(curves.cost_curve(facts.profile, facts.contribution, choice, *args).points) == 2


def test_frontier_names_marks_and_the_infeasible_region(facts, state) -> None:
    plans = facts.frontier("peak_bytes")
    info = frontier_info(
        plans, facts.known_plans, state.prediction, state.budget, COSTS["peak_bytes"], facts.metric
    )
    assert [m.name for m in info.marks] == ["Head", "Preset", "Best", "Full"]
    xs = [p.x for p in info.points]
    assert xs == sorted(xs)
    assert info.infeasible_below == pytest.approx(facts.known_plans["Head"].figures.peak_bytes / 1e3)
    assert info.budget == pytest.approx(state.budget.peak_bytes / 1e3)
    assert {p.place for p in info.points} == set(range(len(plans)))
    assert all(0 <= p.low <= p.y <= p.high <= 100 for p in info.points)


def test_with_locks_the_frontier_is_what_they_leave_and_the_rest_stands_behind(facts, state) -> None:
    state.set_budget(peak_bytes=None)
    state.lock("blocks.0.0.weight", 1.0)
    frontier = FrontierPlans(state)
    assert frontier.plans
    assert all(plan.ratio("blocks.0.0.weight") == 1 for plan in frontier.plans)
    assert frontier.free == facts.frontier("peak_bytes")
    info = frontier_shown(state, frontier)
    least = facts.known_plans["Head"].figures.peak_bytes / 1e3
    assert info.infeasible_below == min(p.x for p in info.points) > least
    assert "no plan keeps to what is locked" in info.infeasible_text
    height = dict(info.free)
    for point in info.points:
        assert point.y <= max(y for x, y in height.items() if x <= point.x) + 1e-9, "locks give nothing"
    dotted = charts.frontier_chart(info, LIGHT)["data"][0]
    assert (dotted["name"], dotted["line"]["dash"]) == ("without locks and rules", "dot")
    state.unlock_all()
    assert (frontier.free, frontier.plans) == ([], facts.frontier("peak_bytes"))
    info = frontier_shown(state, frontier)
    assert "the head alone needs that" in info.infeasible_text
    assert "Biases" in [mark.name for mark in info.marks]


def test_no_shown_plan_lies_above_the_frontiers_steps(facts, state) -> None:
    few = facts.frontier("peak_bytes")[::4]  # coarse: plans for budgets in between are better than its steps
    state.set_budget(peak_bytes=facts.known_plans["Best"].figures.peak_bytes - 1)
    info = frontier_info(
        few, facts.known_plans, state.prediction, state.budget, COSTS["peak_bytes"], facts.metric
    )
    for plan in (*info.points, *info.marks, info.now):
        assert plan is not None
        assert plan.y <= max(y for x, y in info.steps if x <= plan.x)
    assert [y for _, y in info.steps] == sorted(y for _, y in info.steps)
    assert info.steps[-1][0] == info.x_range[1]


def test_full_training_far_away_stands_at_the_edge_of_the_chart_with_its_cost(facts) -> None:
    full = facts.known_plans["Full"]
    far = full._replace(figures=replace(full.figures, peak_bytes=10**9))
    marks = {**facts.known_plans, "Full": far}
    info = frontier_info([], marks, None, Budget(), COSTS["peak_bytes"], facts.metric)
    edge = info.marks[-1]
    assert (edge.name, edge.x) == ("Full, 1.00 GB →", info.x_range[1])
    trained = [MeasuredPoint(x, 0.5, 0.4, 0.6, "trained") for x in (full.figures.peak_bytes, 1e9)]
    with_runs = frontier_info([], marks, None, Budget(), COSTS["peak_bytes"], facts.metric, measured=trained)
    assert with_runs.x_range == info.x_range
    assert with_runs.measured[-1].x == info.x_range[1]
    assert info.x_range[1] < 1e6 / 2  # of kB: the other plans are not squeezed
    assert info.y_range[0] < edge.y < info.y_range[1]


def test_names_at_an_edge_of_the_chart_stand_on_its_inner_side(facts) -> None:
    head, preset = facts.known_plans["Head"], facts.known_plans["Preset"]
    right = preset._replace(figures=replace(preset.figures, peak_bytes=2 * head.figures.peak_bytes))
    for marks in ({"Head": head, "Preset": right}, {"Best": head, "Preset": right}):
        info = frontier_info([], marks, None, Budget(), COSTS["peak_bytes"], facts.metric)
        assert [m.side.split()[1] for m in info.marks] == ["right", "left"]


def test_names_of_plans_that_stand_together_do_not_cover_each_other(facts) -> None:
    head, best = facts.known_plans["Head"], facts.known_plans["Best"]
    marks = {"Head": head, **dict.fromkeys(("Preset", "Best", "Full"), best)}
    now = frontier_info([], marks, head, Budget(), COSTS["peak_bytes"], facts.metric).marks
    together = [m.side for m in now if m.name != "Head"]
    assert sorted(filter(None, together)) == ["bottom left", "top left"]
    assert together.count("") == 1
    texts = charts.frontier_chart(
        frontier_info([], marks, head, Budget(), COSTS["peak_bytes"], facts.metric), LIGHT
    )["data"][2]["text"]
    assert sum(map(bool, texts)) == 3


@pytest.mark.parametrize("id", ["blocks.1.0.weight", BIASES])
def test_estimated_gains_stand_beside_those_that_were_measured(facts, id: str) -> None:
    row = facts.row(id)
    curve = curves.gain_curve(row, facts.forecaster.gains, 0.5, facts.metric)
    assert [p.percent for p in curve.measured] == [100 * share for share in sorted(row.gains)]
    assert [p.percent for p in curve.points] == [0, *(p.percent for p in curve.measured)]
    assert [p.gain for p in curve.measured] == [100 * row.gains[s].mean for s in sorted(row.gains)]
    assert all(p.half > 0 for p in curve.points[1:])  # and 10 steps of two seeds leave some doubt
    rings, line = charts.gain_chart(curve, LIGHT)["data"]
    assert (rings["mode"], line["mode"]) == ("markers", "lines+markers")
    assert all("measured" in said for said in rings["text"])
    alone = dict.fromkeys(facts.contribution.head, 1.0) | chosen(id, 1.0, facts.contribution)
    forecast = facts.forecaster.forecast(alone)
    assert curve.points[-1].gain == pytest.approx(100 * forecast.gain, abs=0.5)  # the same model says both


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_charts_set_all_that_a_theme_could_change(facts, state, colours) -> None:
    row = facts.row("blocks.1.0.weight")
    budget, now, cost = Budget(peak_bytes=40_000), facts.known_plans["Preset"], COSTS["peak_bytes"]
    figures = [
        charts.gain_chart(curves.gain_curve(row, facts.forecaster.gains, 0.5, facts.metric), colours),
        charts.cost_chart(
            curves.cost_curve(facts.profile, facts.contribution, now.choice, row, 0.5, cost, budget), colours
        ),
        charts.frontier_chart(
            frontier_info(facts.frontier("peak_bytes"), facts.known_plans, now, budget, cost, facts.metric),
            colours,
        ),
        charts.loss_chart([1, 2], [2.0, 1.0], 10, colours),
        charts.frontier_chart(
            frontier_info([], facts.known_plans, None, Budget(), COSTS["peak_bytes"], facts.metric), colours
        ),
    ]
    for figure in figures:
        layout = go.Figure(figure).to_plotly_json()["layout"]  # it refuses what Plotly does not know
        assert layout["margin"]["t"] < 20
        assert layout["font"]["color"] == colours.text


# ---------------------------------------------------------------- training and code


def test_progress_follows_the_newest_event() -> None:
    assert progress([], 10).text == "Starting the worker …"
    events = [{"kind": "stage", "text": "Compiling"}]
    assert progress(events, 10) == ("Compiling …", None)
    events.append({"kind": "loss", "step": 5, "loss": 1.0, "step_ms": 20.0, "left_s": 65.0})
    now = progress(events, 10)
    assert now.share == 0.5
    assert "1 min 5 s left" in now.text
    events.append({"kind": "stage", "text": "Evaluating"})
    assert progress(events, 10).text == "Evaluating …"


def test_all_losses_are_shown_once_a_run_is_done() -> None:
    events = [{"kind": "loss", "step": 1, "loss": 3.0}]
    assert loss_history(events) == ([1], [3.0])
    events.append({"kind": "result", "losses": [[1, 3.0], [2, 2.0]]})
    assert loss_history(events) == ([1, 2], [3.0, 2.0])


def test_results_stand_beside_predictions() -> None:
    events = [
        {"kind": "metric", "when": "before", "value": 0.1, "samples": 1000},
        {"kind": "metric", "when": "after", "value": 0.9, "samples": 1000},
        {"kind": "measured", "step_ms": 12.0, "steps": 20, "over_imported_bytes": 5e6},
    ]
    metric, step, memory = result_tiles(events, {"peak_bytes": 4e6}, fmt.MetricScale(0.5))
    assert metric.value == "10.0 % → 90.0 %"
    assert (step.value, step.note) == ("12.0 ms", "predicted –")
    assert (memory.value, memory.note) == ("5.00 MB", "modelled 4.00 MB")
    assert not metric.alarm


def test_results_say_what_got_worse_and_which_runtime_a_prediction_is_of() -> None:
    events = [
        {"kind": "metric", "when": "before", "value": 0.5, "samples": 10},
        {"kind": "metric", "when": "after", "value": 0.4, "samples": 10},
        {"kind": "measured", "step_ms": 12.0, "steps": 20, "over_imported_bytes": 5e6},
    ]
    metric, step, _ = result_tiles(events, {"step_ms": 3.0}, fmt.MetricScale(0.5), "onnx", "openvino")
    assert metric.alarm
    assert step.note == "predicted 3.00 ms for OpenVINO"


PARITY = {
    "loss": 1.5, "loss_deviation": 2e-8, "gradient_deviation": 1.1e-6, "worst_gradient": "fc.weight",
    "step_deviation": None, "worst_step": "", "tolerance": {"loss": 1e-4, "gradient": 1e-3, "step": 1e-3},
    "forced": False,
}  # fmt: skip


def test_a_parity_record_is_a_verdict_with_its_figures() -> None:
    badge = parity_badge(PARITY)
    assert (badge.text, badge.level) == ("Agrees with PyTorch", "good")
    assert "loss off by 2.0e-08; gradients by 1.1e-06 (most: fc.weight)" in badge.detail
    assert "one step by no finite number." in badge.detail
    assert "More than 1e-04 of the loss, 1e-03 of gradients" in badge.detail
    assert "Rounding" not in badge.detail
    assert "PyTorch's own gradients by up to 2.0e-03" in parity_badge({**PARITY, "rounding": 2e-3}).detail
    assert parity_badge({**PARITY, "forced": True}).level == "bad"
    assert "The metric was not compared" in badge.detail
    limits = {**PARITY["tolerance"], "metric": 5e-5}  # pyright: ignore
    told = parity_badge({**PARITY, "metric_deviation": 9e-8, "tolerance": limits}).detail
    assert "; the metric by 9.0e-08." in told
    assert "5e-05 of the metric" in told
    assert "not compared" not in told


@pytest.mark.parametrize(("record", "why"), [("skipped", "switched off"), (None, "did not compare")])
def test_no_parity_record_is_not_a_good_one(record: str | None, why: str) -> None:
    badge = parity_badge(record)
    assert badge.level == "unknown"
    assert why in badge.detail


@pytest.mark.parametrize(
    ("key", "typed", "limit"),
    [
        ("peak_bytes", "155", 155_000), ("peak_bytes", "0.155 MB", 155_000), ("peak_bytes", "155kb", 155_000),
        ("peak_bytes", "150 KiB", 153_600), ("peak_bytes", "0,155 mb", 155_000),
        ("peak_bytes", "155,000 B", 155_000), ("peak_bytes", "1.55e5 B", 155_000), ("peak_bytes", "", None),
        ("peak_bytes", "No limit", None), ("peak_bytes", "22 MB", None), ("step_ms", "12", 12.0),
        ("step_ms", "0.012 s", 12.0), ("step_ms", "12000 µs", 12.0), ("step_ms", "25 % of full", 10.0),
        ("step_ms", "25%", 10.0),
    ],
)  # fmt: skip
def test_a_typed_budget_may_have_a_unit(facts, key: str, typed: str, limit: float | None) -> None:
    memory = budget_range("peak_bytes", facts.known_plans)
    assert memory is not None
    assert memory.unit.name == "kB"
    time = memory._replace(unit=COSTS["step_ms"].axis(40), full=40.0, end=30.0)
    assert typed_limit(key, typed, memory if key == "peak_bytes" else time) == (
        None if limit is None else pytest.approx(limit)
    )


def test_half_of_full_is_half_of_what_training_everything_needs(facts) -> None:
    full = facts.known_plans["Full"].figures.peak_bytes
    memory = budget_range("peak_bytes", facts.known_plans)
    assert memory is not None
    assert typed_limit("peak_bytes", "50 %", memory) == round(full / 2)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("22 MX", "'MX' is no unit of memory"), ("12 ms", "'ms' is no unit of memory"),
        ("much", "'much' is no amount of memory"), ("-3 MB", "above 0"), ("0", "above 0"),
        ("1.2.3 MB", "no amount"), ("22 M B", "no amount"), ("nan", "no amount"), ("10 MBit", "Did you mean"),
    ],
)  # fmt: skip
def test_a_typed_budget_that_is_none_is_answered_in_words(facts, typed: str, words: str) -> None:
    memory = budget_range("peak_bytes", facts.known_plans)
    assert memory is not None
    with pytest.raises(BudgetError, match=words) as refused:
        typed_limit("peak_bytes", typed, memory)
    assert "Write it as 22 MB" in str(refused.value)


def test_a_task_that_cannot_be_made_again_is_explained() -> None:
    assert "does not say" in why_not_trainable("", "", "a.db")
    assert "pockui serve a.db --task m:t" in why_not_trainable("m:t", "", "a.db")
    assert "no_such_package" in why_not_trainable("", "no_such_package.tasks:task", "a.db")
    assert why_not_trainable("other:task", "ui_task:task", "a.db") == ""


def test_a_task_of_the_working_folder_is_found_however_the_dashboard_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A console script looks for modules in its own folder; what trains, in the working one."""
    (tmp_path / "my_project.py").write_text("raise SystemExit('only looked for')")
    assert "my_project" in why_not_trainable("", "my_project:task", "a.db")
    monkeypatch.chdir(tmp_path)
    assert why_not_trainable("", "my_project:task", "a.db") == ""
    mistyped = why_not_trainable("", "my_projct:task", "a.db")
    assert str(tmp_path) in mistyped
    assert "Did you mean 'my_project'" in mistyped


def test_code_is_python_that_names_the_plan(facts, state) -> None:
    source = training_code(state.plan, "ui_task:task", TrainSettings(steps=7, lr=0.1), "p.json")
    compile(source, "code", "exec")
    assert "load_task('ui_task:task')" in source
    assert "lr=0.1" in source
    compile(training_code(state.plan, "", TrainSettings("torch", 7), "p.json"), "code", "exec")
    assert optimizer_code({"name": "sgd", "lr": 0.01, "momentum": 0.0}) == "pg.SGD(lr=0.01)"


def test_optimizer_code_makes_the_same_optimizer() -> None:
    for optimizer in (
        pg.AdamW(weight_decay=0.0),
        pg.Adafactor(clip_norm=1.0, accumulate=4, groups=(pg.Group("*.bias", weight_decay=0.0),)),
        pg.Lion(groups=(pg.Group("a", lr_scale=2.0), pg.Group("b", lr_scale=0.0)), ema_decay=0.9),
        pg.Adam(amsgrad=True),
    ):
        assert eval(optimizer_code(optimizer.to_dict())) == optimizer


# ---------------------------------------------------------------- finding studies


def test_studies_are_found_by_their_content(study_path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_studies() == []
    (tmp_path / "out" / "demo").mkdir(parents=True)
    (tmp_path / "not.db").write_text("something else")
    (tmp_path / "out" / "demo" / "s.db").write_bytes(study_path.read_bytes()[:100])
    assert [p.name for p in find_studies()] == ["s.db"]


def test_the_study_that_was_written_last_comes_first(study_path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for hour, name in enumerate(("a.db", "b.db", "c.db")):
        (tmp_path / name).write_bytes(study_path.read_bytes()[:100])
        os.utime(tmp_path / name, (3600 * hour, 3600 * hour))
    for name, log in (("a.db", b"written, not yet in the file"), ("b.db", b"")):
        (tmp_path / f"{name}-wal").write_bytes(log)
    assert [p.name for p in find_studies()] == ["a.db", "c.db", "b.db"]
    assert changed_s(tmp_path / "b.db") == 3600
    assert changed_s(tmp_path / "gone.db") == 0


def test_the_address_wins_over_arguments_and_environment() -> None:
    assert study_argument(["--port", "1", "a.db"], {"POCKUI_STUDY": "e.db"}) == "a.db"
    assert study_argument([], {"POCKUI_STUDY": "e.db"}) == "e.db"
    assert study_argument([], {}) == ""


def test_planning_needs_neither_torch_nor_panel(study_path) -> None:
    script = (
        "import sys; from pockui.state import State; s = State(); s.open(sys.argv[1]); "
        "assert s.plan is not None, s.facts; print([m for m in ('torch', 'panel') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(study_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_example_task_is_whole() -> None:
    assert task().reference == "ui_task:task"
