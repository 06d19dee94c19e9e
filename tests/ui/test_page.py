"""The page of a session, without a browser."""

from __future__ import annotations

import html
import time
from pathlib import Path

import panel as pn
import panel_material_ui as pmui
import pytest
from bokeh.document import Document
from bokeh.models import ImportedStyleSheet
from panel.io.state import set_curdoc

from pockgraph.errors import PockError
from pockui import page
from pockui import training as training_module
from pockui.components.web import Chart, Copy, LayerBars
from pockui.info.train_settings import TrainSettings
from pockui.jobs import Jobs
from pockui.training import Training
from pockui.views import export, train
from pockui.views.layers import Layers


def test_styles_come_from_here_in_a_session_that_no_page_was_served_for(state) -> None:
    """As after a reconnect, when the session has ended: only the websocket asks for one."""
    document = Document()
    with set_curdoc(document):
        page.page_of(state).server_doc(document)
    found = {m.url for m in document.models if isinstance(m, ImportedStyleSheet)}
    assert found
    assert not [url for url in found if "://" in str(url)]


def test_hidden_tabs_neither_compute_nor_draw_until_they_are_shown(
    state, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    for module, name in ((export, "session_code"), (train, "training_code")):
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, _real=real, _name=name: written.append(_name) or _real(*a)
        )
    shown = page.page_of(state)
    tabs = next(iter(shown.select(pmui.Tabs)))
    plan, memory, *_, exported = tabs
    bars, charts = next(iter(plan.select(LayerBars))), list(plan.select(Chart))

    def move(budget: int) -> None:
        state.set_budget(peak_bytes=budget)

    written.clear()
    move(state.facts.known_plans["Best"].figures.peak_bytes)
    assert written == []
    assert bars.ratios == state.ratios

    assert not list(memory.select(Chart))
    tabs.active = 1
    alive = next(iter(memory.select(Chart)))
    assert alive.figure["data"][-1]["name"] == "peak"
    tabs.active = len(tabs) - 1
    assert written == ["session_code"]
    (copied,) = exported.select(Copy)
    texts = [html.unescape(str(pane.object)) for pane in exported.select(pn.pane.HTML)]
    assert "study.search(budget" in copied.text
    assert any(copied.text in t for t in texts)
    written.clear()
    ratios, figures = bars.ratios, [c.figure for c in charts]
    move(state.facts.known_plans["Full"].figures.peak_bytes * 2)
    move(state.facts.known_plans["Head"].figures.peak_bytes)
    assert bars.ratios == state.ratios != ratios, "bars cost little, and are right before they are seen"
    assert [c.figure for c in charts] == figures
    assert set(written) == {"session_code"}

    tabs.active = 0
    assert [c.figure for c in charts] != figures


def test_what_was_measured_and_what_was_not_stands_under_the_layers(state) -> None:
    texts = [html.unescape(str(pane.object)) for pane in Layers(state).__panel__().select(pn.pane.HTML)]
    weights = len(state.facts.contribution.weights)
    assert any(f"Measured {weights} of {weights} weights outside the head" in t for t in texts)


def test_no_two_runs_get_one_folder(state, tmp_path: Path) -> None:
    first, second = (Training(state, Jobs(), tmp_path / "out") for _ in range(2))
    folders = [training.folder("onnx") for training in (first, second, first)]
    assert len(set(folders)) == 3
    assert all(folder.is_dir() for folder in folders)


def test_a_cancelled_run_leaves_no_folder(state, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_module, "why_not_trainable", lambda *_: "")
    training = Training(state, Jobs(), tmp_path / "out")
    training.settings = TrainSettings("onnx", steps=10)
    training.start()
    (folder,) = (tmp_path / "out").iterdir()
    folder.with_name(f".{folder.name}.01234567.pockui-partial").mkdir()  # what the killed process was writing
    training.cancel()
    assert training.job is not None
    assert training.job.status == "cancelled"
    limit = time.monotonic() + 30
    while list((tmp_path / "out").iterdir()):
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_run_that_has_no_place_says_so(state, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(
        PockError, match=r"Cannot make the folder .*out.* Start the dashboard where you may write"
    ):
        Training(state, Jobs(), tmp_path / "out").folder("onnx")
