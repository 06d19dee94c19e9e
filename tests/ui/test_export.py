"""What the export tab hands out, without a browser: code, tables, charts, the report."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from pockgraph.errors import PockError
from pockgraph.plan import Plan, Trained
from pockui.facts import read_facts
from pockui.frontier_plans import FrontierPlans
from pockui.info.chart_svg import chart_svg
from pockui.info.charts import losses_chart
from pockui.info.contribution_table import contribution_csv
from pockui.info.palette import DARK, LIGHT
from pockui.info.python_code import planning_code, session_code
from pockui.info.records import LossCurve
from pockui.info.train_settings import TrainSettings
from pockui.pictures import PICTURES, picture
from pockui.planned import planned
from pockui.state import State
from pockui.study_report import recoloured, report_html
from pockui.training import Training
from pockui.views.export import Export

WEIGHT = "blocks.1.0.weight"

# ---------------------------------------------------------------- as Python


def _imported(state: State) -> None:
    """Channels that no share means, beside some that one does."""
    order = state.facts.profile.channel_order[state.facts.profile.index(WEIGHT)]
    named = Trained(dim=1, channels=tuple(sorted(order[-3:])))
    plan = state.facts.plan_of({"head.weight": Trained(), "head.bias": Trained(), WEIGHT: named}, "x")
    state.import_plan(plan.to_json(), "x.json")


def _searched(state: State) -> None:
    state.set_lock(WEIGHT, True)
    state.lock("*.bias", "frozen")
    state.set_rules(max_tensors=6)
    state.set_budget(peak_bytes=160_001)


def _edited(state: State) -> None:
    state.set_budget(peak_bytes=None)
    state.set_ratio(WEIGHT, 0.375)
    state.set_ratio("biases", 0.5)


def _of_the_frontier(state: State) -> None:
    FrontierPlans(state).take(2)


@pytest.mark.parametrize("change", [_searched, _edited, _imported, _of_the_frontier])
def test_the_code_gives_the_same_plan_and_figures(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[State], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    change(state)
    names: dict[str, Any] = {}
    exec(planning_code(planned(state), state.facts.profile), names)
    plan = names["plan"]
    assert plan.tensors == state.plan.tensors
    assert plan.optimizer == state.plan.optimizer
    assert names["profile"].figures(names["profile"].ratios_of(plan)) == state.prediction.figures
    assert names["study"].forecast(plan) == state.prediction.forecast
    assert names["budget"] == state.budget
    assert names["constraints"] == state.asked
    assert Plan.load(tmp_path / "blobs.plan.json") == plan


def test_the_code_trains_as_the_settings_say(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    settings = TrainSettings("torch", steps=3, lr=0.0312345)
    exec(session_code(planned(state), state.facts.profile, "ui_task:task", settings), names)
    assert names["trainer"].steps == 3
    losses = [float(line) for line in capsys.readouterr().out.splitlines()[-4:-1]]
    again = names["artifact"].trainer()
    expected = [again.step(b, lr=0.0312345).loss for _, b in zip(range(3), names["task"].forever(seed=0))]
    assert losses == expected


def test_the_code_of_a_device_plans_for_it(state: State) -> None:
    source = planning_code(planned(state)._replace(device="board"), state.facts.profile)
    assert "study.profile_on('board')" in source
    assert "device='board'" in source


# ---------------------------------------------------------------- tables


def test_the_contribution_table_has_each_gain(state: State) -> None:
    state.set_ratio(WEIGHT, 0.375)
    rows = list(csv.DictReader(io.StringIO(contribution_csv(state.facts.rows, state.ratios))))
    contribution = state.facts.contribution
    gains = {(r["tensor"], float(r["ratio"])): float(r["gain"]) for r in rows if r["gain"]}
    for fqn, by_ratio in contribution.weights.items():
        for ratio, gain in by_ratio.items():
            assert gains[fqn, ratio] == gain.mean
    mine = [r for r in rows if r["tensor"] == WEIGHT]
    assert {r["planned_ratio"] for r in mine} == {"0.375"}
    assert all(float(r["gain_low"]) <= float(r["gain"]) <= float(r["gain_high"]) for r in mine)
    assert {r["tensor"] for r in rows} == {row.id for row in state.facts.rows}
    head = next(r for r in rows if r["tensor"] == "head.weight")
    assert (head["head"], head["planned_ratio"], head["whole_peak_bytes"]) == ("yes", "1.0", "")


# ---------------------------------------------------------------- charts

SVG = "{http://www.w3.org/2000/svg}"


def _drawn(text: str) -> ET.Element:
    """A file that stands for itself."""
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert not re.search(r"href|@import|url\(|<script|NaN|inf\b", text)
    return root


@pytest.mark.parametrize("dark", [False, True])
def test_charts_are_files_of_svg(state: State, dark: bool) -> None:
    state.dark = dark
    frontier, training = FrontierPlans(state), Training(state)
    drawn = {key: _drawn(picture(key, state, frontier, training)) for key in PICTURES if key != "loss"}
    said = {key: [t.text for t in root.iter(f"{SVG}text")] for key, root in drawn.items()}
    assert {row.id for row in state.facts.rows if row.fixed} <= set(said["layers"])
    assert {"Head", "Preset", "Best"} <= set(said["frontier"])
    assert len(list(drawn["frontier"].iter(f"{SVG}circle"))) == len(frontier.plans) + 1
    assert "Operators of the whole step, %" in said["timeline"]
    paper = (DARK if dark else LIGHT).paper
    assert all(root.find(f"{SVG}rect").get("fill") == paper for root in drawn.values())
    with pytest.raises(PockError, match="no chart “Training loss” yet"):
        picture("loss", state, frontier, training)


def test_a_legend_and_names_with_markup_are_text() -> None:
    curves = [LossCurve("a < b & c", [1, 2], [0.5, 0.25]), LossCurve("other", [1, 2], [1.0, -3.5])]
    root = _drawn(chart_svg(losses_chart(curves, LIGHT), "losses", LIGHT.paper))
    assert {"a < b & c", "other", "−2"} <= {t.text for t in root.iter(f"{SVG}text")}


def test_the_view_draws_what_was_asked_for(state: State) -> None:
    view = Export(state, Training(state))
    view.pictures.edit = {"seq": 4, "kind": "picture", "key": "timeline", "format": "PNG"}
    asked = view.pictures.picture
    assert (asked["seq"], asked["name"], asked["format"]) == (4, "blobs.timeline", "PNG")
    _drawn(asked["svg"])
    assert [p["key"] for p in view.pictures.pictures] == ["layers", "frontier", "timeline"]
    assert view.copy.text.startswith("from itertools")


# ---------------------------------------------------------------- the report


class _Page(HTMLParser):
    """Addresses that a page reads, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "srcset", "href")]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_report_is_one_file_with_the_plans_figures(state: State) -> None:
    state.set_lock(WEIGHT, True)
    state.set_budget(peak_bytes=160_000)
    report = _Page(report_html(state, FrontierPlans(state), Training(state)))
    assert report.addresses
    assert all(address.startswith("data:image/svg+xml") for address in report.addresses)
    assert not {"script", "link", "iframe"} & set(report.tags)
    for address in report.addresses:
        _drawn(unquote(address.partition(",")[2]))
    metric = state.facts.metric
    words = " ".join(report.words.split())
    forecast = metric.level(state.prediction.forecast.metric)
    measured = state.facts.coverage.split(".")[0]
    limits = ("Peak memory up to 160 kB", "1 tensor locked")
    for said in ("blobs", forecast, *limits, measured, WEIGHT, "pg.Study('blobs.db')"):
        assert said in words, said
    assert str(state.facts.path.parent) not in report.words


def test_the_report_is_refused_while_there_is_no_plan(study_path: Path) -> None:
    state = State()
    state.show(read_facts(study_path))
    state.plan = None
    with pytest.raises(PockError, match="no plan to report on"):
        report_html(state, FrontierPlans(state), Training(state))


def test_other_colours_of_the_same_drawing() -> None:
    assert recoloured("#111 #222", {"#111": "#222", "#222": "#333"}) == "#222 #333"
