"""The device that a page plans for."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

import pockgraph as pg
from pockui.facts import read_facts
from pockui.state import State
from pockui.views.budgets import Budgets
from pockui.views.process_memory import ProcessMemory

sys.path.append(str(Path(__file__).parents[1] / "study"))
from measured_devices import device_of


@pytest.fixture
def on_two_devices(study_path: Path, tmp_path: Path) -> Path:
    path = Path(shutil.copy(study_path, tmp_path / "two.db"))
    with pg.Study(path) as study:
        study.add_device(device_of(study, "slow", slowness=10.0))
        study.add_device(device_of(study, "fast"))
    return path


def test_figures_follow_the_device_that_is_chosen(on_two_devices: Path) -> None:
    state = State()
    state.open(on_two_devices)
    assert (state.facts.device, state.facts.devices) == ("fast", ("slow", "fast"))
    fast = state.prediction.figures
    state.set_budget(step_ms=fast.step_ms * 2)
    state.use_device("slow")
    assert state.facts.device == "slow"
    assert state.prediction.figures.step_ms > 5 * fast.step_ms
    assert state.plan.predicted["step_ms"] == state.prediction.figures.step_ms
    assert state.prediction.figures.peak_bytes == state.plan.predicted["peak_bytes"]
    assert state.budget.step_ms is None
    assert not state.can_undo
    state.use_device("none such")
    assert "no device" in str(state.problem)
    assert state.facts.device == "slow"


def test_sessions_choose_for_themselves(on_two_devices: Path) -> None:
    a, b = State(), State()
    for state in (a, b):
        state.open(on_two_devices)
    a.use_device("slow")
    assert (a.facts.device, b.facts.device) == ("slow", "fast")
    assert read_facts(on_two_devices) is read_facts(on_two_devices, "fast")
    with pg.Study(on_two_devices) as study:
        assert study.used_device == "fast"


def test_the_page_offers_devices_where_there_are_several(on_two_devices: Path, state: State) -> None:
    assert not Budgets(state)._device.visible
    several = State()
    several.open(on_two_devices)
    view = Budgets(several)
    assert view._device.visible
    assert (view._device.options, view._device.value) == (["slow", "fast"], "fast")
    before = several.prediction.figures.step_ms
    view._device.value = "slow"
    assert several.facts.device == "slow"
    assert several.prediction.figures.step_ms > before
    assert view._bars["step_ms"].visible


def test_the_account_of_process_memory_follows_a_drag_where_processes_were_measured(
    on_two_devices: Path, state: State
) -> None:
    assert not ProcessMemory(state).__panel__().visible
    measured = State()
    measured.open(on_two_devices)
    account = ProcessMemory(measured)
    assert account.__panel__().visible
    before = account._view.object
    drawing, figures = before.split("<table>")
    assert drawing.count('class="stack') == 3
    assert 'aria-hidden="true"' in drawing  # for whom the table says the same
    for name in ("This plan", "Preset", "Full", "Runtime", "Constants", "State", "Activations"):
        assert name in figures
    pane = account._view
    measured.set_ratio("blocks.1.0.weight", 1.0, final=False)
    measured.set_ratio("stem.weight", 1.0, final=False)
    assert account._view is pane
    assert pane.object != before
    lowest = measured.facts.known_plans["Head"].figures.process_bytes
    measured.set_budget(process_bytes=(lowest + measured.prediction.figures.process_bytes) / 2)
    assert 'title="budget"' in pane.object
