"""What other processes add to a study is shown in every session, and nothing that was chosen is lost."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from own_loop import run_in_own_loop

import pockgraph as pg
from pockgraph.search import Constraints
from pockui import url_state, watching
from pockui.bindings import frontier_shown
from pockui.facts import read_facts
from pockui.frontier_plans import FrontierPlans
from pockui.scheduling import AtOnce
from pockui.state import State
from pockui.watching import Followed, Watch

WEIGHT = "blocks.1.0.weight"


@pytest.fixture
def path(study_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(study_path, tmp_path / "blobs.db"))


def _shown(path: Path) -> State:
    made = State()
    made.show(read_facts(path))
    return made


def _measure_anew(path: Path) -> None:
    """As another process does that analyses: one gain is another, and the revision grows."""
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            "UPDATE measurements SET metric = metric + 0.125 WHERE fqn = ? AND status = 'done'", (WEIGHT,)
        )
        db.execute("UPDATE revisions SET value = value + 1 WHERE name = 'measurements'")
        db.commit()


def test_every_session_gets_newer_measurements_and_keeps_what_was_chosen(path: Path) -> None:
    watch, one, other = Watch(), _shown(path), _shown(path)
    followed = [Followed(state, AtOnce()) for state in (one, other)]
    watch.look(followed)
    facts = one.facts
    one.set_ratio(WEIGHT, 0.375)
    one.set_budget(peak_bytes=None)
    one.param.update(filter="blocks", order="gain", selected="stem.weight")
    chosen = one.budget, one.plan.tensors, one.locked, dict(one.prediction.choice)
    forecast = one.prediction.forecast.metric
    _measure_anew(path)
    watch._next_s.clear()  # reading takes long where much else is done
    watch.look(followed)
    assert one.facts is other.facts is not facts
    assert (one.budget, one.plan.tensors, one.locked, one.prediction.choice) == chosen
    assert (one.filter, one.order, one.selected) == ("blocks", "gain", "stem.weight")
    assert one.prediction.forecast.metric != forecast
    assert one.plan.predicted["metric"] == one.prediction.forecast.metric
    assert one.origin == "outdated"
    one.undo()
    assert one.origin == "edited"
    assert one.plan.ratio(WEIGHT) == 0.375
    assert one.plan.predicted["metric"] == pytest.approx(one.prediction.forecast.metric)
    one.undo()
    assert one.origin == "outdated"  # it was searched before
    one.search_again()
    assert one.origin == "search"


def test_a_study_that_is_as_it_was_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, followed = Watch(), [Followed(_shown(path), AtOnce())]
    watch.look(followed)
    read = []
    monkeypatch.setattr(watching, "read_facts", lambda *asked: read.append(asked) or read_facts(*asked))
    watch.look(followed)
    assert read == []
    state = followed[0].state
    facts, plan, best = state.facts, state.plan, state.facts.search(pg.Budget(), Constraints())
    with pg.Study(path) as study:
        study.save_plan("kept", plan)
        study.save_plan("the best again", best)
    watch._next_s.clear()
    watch.look(followed)
    assert len(read) == 1
    assert [*state.facts.marks] == [*facts.marks, "kept"], "a plan has one name in the chart"
    assert state.facts.marks["kept"].figures == state.prediction.figures
    assert state.plan is plan
    marks = {mark.name: mark.x for mark in frontier_shown(state, FrontierPlans(state)).marks}
    assert marks["kept"] == pytest.approx(plan.predicted["peak_bytes"] / 1e3)
    with pg.Study(path) as study:
        study.remove_plan("kept")
    watch._next_s.clear()
    watch.look(followed)
    assert [*state.facts.marks] == [*facts.marks]


def test_reading_again_waits_the_longer_the_longer_it_takes(path: Path) -> None:
    watch, followed = Watch(), [Followed(_shown(path), AtOnce())]
    watch.look(followed)
    _measure_anew(path)
    watch._next_s[path] = float("inf")
    facts = followed[0].state.facts
    watch.look(followed)
    assert followed[0].state.facts is facts
    watch._next_s.clear()
    watch.look(followed)
    assert followed[0].state.facts is not facts


def test_a_study_that_is_gone_or_of_another_model_leaves_what_is_shown(path: Path) -> None:
    state = _shown(path)
    facts = state.facts
    first = facts.profile.tensors[0]
    others = (replace(first, fqn="another"), *facts.profile.tensors[1:])
    state.refresh(replace(facts, profile=replace(facts.profile, tensors=others)))
    assert state.facts is facts
    watch = Watch()
    path.unlink()
    watch.look([Followed(state, AtOnce())])
    assert state.facts is facts


def test_a_search_that_was_under_way_is_answered_by_the_newer_facts(path: Path) -> None:
    waiting = []

    def answer() -> None:
        compute, then = waiting.pop(0)
        then(compute())

    state = State(run=lambda compute, then: waiting.append((compute, then)))
    state.show(read_facts(path))
    answer()
    state.set_budget(peak_bytes=None)
    _measure_anew(path)
    state.refresh(read_facts(path))
    answer()  # of the facts before: dropped
    assert state.plan.predicted["peak_bytes"] < state.facts.known_plans["Best"].figures.peak_bytes
    answer()
    assert state.plan.predicted["peak_bytes"] == state.facts.known_plans["Best"].figures.peak_bytes
    assert state.origin == "search"
    state.refresh(state.facts)
    assert waiting == []


def test_a_trained_plan_moves_forecasts_and_stands_beside_them(path: Path) -> None:
    from ui_task import task

    state = _shown(path)
    state.set_budget(peak_bytes=None)
    before = state.facts.measured("peak_bytes")
    with pg.Study(path, task()) as study:
        found = study.verify(state.plan, seeds=(0, 1))
    state.refresh(read_facts(path))
    (point,) = state.facts.measured("peak_bytes")
    assert (before, state.facts.others) == ((), 0)
    metrics = [run.validation_metric for run in found.runs]
    assert point.y == pytest.approx(sum(metrics) / 2)
    assert point.low < point.y < point.high or point.y == 1
    assert point.x == state.plan.predicted["peak_bytes"]
    assert "trained 2 times" in point.text
    settled = url_state.read({k: v for k, v in url_state.query_of(state).items() if v}, state.facts)
    assert settled.problems == ()
    assert settled.planned.origin == "outdated"


def test_the_head_alone_has_a_point_too_and_moves_nothing(path: Path) -> None:
    from ui_task import task

    state = _shown(path)
    forecaster, plan = state.facts.forecaster, state.plan
    with pg.Study(path, task()) as study:
        head = state.facts.profile.plan(state.facts.known_plans["Head"].choice)
        (run,) = study.verify(head, seeds=(5,)).runs
        study.add_run(replace(run, uid="", plan=plan, head_metric=None, steps=run.steps + 1))  # otherwise
    newer = read_facts(path)
    assert newer is read_facts(path)
    state.refresh(newer)
    (point,) = state.facts.measured("peak_bytes")
    assert point.y == run.validation_metric
    assert "trained once" in point.text
    assert state.facts.others == 1
    assert (state.facts.forecaster, state.plan, state.origin) == (forecaster, plan, "search")


def test_following_ends_with_the_session(path: Path) -> None:
    watch = Watch(look_s=0.01)
    stop = watch.follow(_shown(path), AtOnce())
    thread = watch._thread
    stop()
    thread.join(20)
    assert not thread.is_alive()
    assert watch._thread is None


def test_widgets_of_a_notebook_follow_their_study_until_they_are_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widgets = pytest.importorskip("pockui.widgets")
    watch = Watch(look_s=0.05)
    monkeypatch.setattr("pockui.widgets.parts.WATCH", watch)

    async def kernel() -> None:
        planner = widgets.Planner(path)
        state, facts = planner.state, planner.state.facts
        widgets.LayerBars(state)
        assert [followed.state for followed in watch._followed] == [state], "one state is followed once"
        tiles, rows = planner._tiles.value, planner.layers.bars.rows
        _measure_anew(path)
        async with asyncio.timeout(60):
            while state.facts is facts:
                await asyncio.sleep(0.02)
        assert planner._tiles.value != tiles
        assert planner.layers.bars.rows != rows
        assert "Found before the study" in planner._status.value
        planner.close()
        assert watch._followed == []

    run_in_own_loop(kernel())
