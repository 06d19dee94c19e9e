"""Notebook 01 in JupyterLab and in Notebook 7: run and dragged in a browser, and the kernel asked.

Jupyter is not among the development packages: `make test-jupyter` has an environment for it.
"""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from headless import violations
from served_notebooks import Jupyter, jupyter

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
NOTEBOOK = "01_first_plan.ipynb"
WEIGHT, OTHER = "2.weight", "4.weight"
RUN_S, PATIENCE_S = 400.0, 60.0
OUTPUTS = ".jp-OutputArea-output"

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", params=["jupyterlab", "notebook"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed here; `make test-jupyter` has it")
    folder, state = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("state")
    shutil.copy(NOTEBOOKS / NOTEBOOK, folder)
    with jupyter(request.param, folder, state) as running:
        yield running


@pytest.fixture
def page(chromium, served: Jupyter) -> Iterator[Any]:
    """A page that asked no other machine for anything."""
    page = chromium.new_page(viewport={"width": 1400, "height": 1100})
    page.set_default_timeout(1000 * PATIENCE_S)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    yield page
    page.close()
    ours = (served.url, served.url.replace("http", "ws"), "data:", "blob:")
    assert [url for url in asked if not url.startswith(ours)] == []


def wait(until: Callable[[], Any], seconds: float, what: str) -> None:
    limit = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < limit, f"waited too long until {what}"
        time.sleep(0.2)


def drag(page: Any, handle: Any, dx: float) -> None:
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx, y, steps=6)
    page.mouse.up()


# Of each chart that is shown: the values that its lines and its points stand at, as its axis reads, and how
# much of its box's width it leaves empty.
SHOWN = ".pock-chart:visible"
CHARTS = """charts => charts.map(chart => {
  const number = text => Number(text.replaceAll(",", "").replace("−", "-"));
  const ticks = [...chart.querySelectorAll("g[aria-hidden] text[text-anchor=end]")];
  const [low, high] = [ticks.at(0), ticks.at(-1)]
    .map(tick => [tick.getAttribute("y") - 4, number(tick.textContent)]);
  const value = y => low[1] + (y - low[0]) / (high[0] - low[0]) * (high[1] - low[1]);
  const heights = path => [...path.getAttribute("d").matchAll(/[ML][^MLHV]+ ([^MLHV ]+)|V([^MLHV ]+)/g)]
    .map(([, y, v]) => Number(y ?? v));
  const [lines, points] = ["path[stroke-linejoin=round]", "circle[fill=transparent]"]
    .map(which => [...chart.querySelectorAll(which)]);
  return {
    lines: lines.map(line => heights(line).map(value)),
    points: points.map(point => value(point.getAttribute("cy"))),
    empty_px: chart.parentElement.clientWidth - chart.querySelector("svg").clientWidth,
  };
})"""
# Of a chart in the kernel: the same values.
VALUES = """(lambda traces: {{
    "lines": [t["y"] for t in traces if "lines" in t["mode"] and t["line"]["width"]],
    "points": [float(y) for t in traces if t["mode"] != "lines" for y in t["y"]],
}})({}.figure["data"])"""


def await_charts(output: Any, served: Jupyter, *charts: str) -> None:
    """Wait until an output shows what these are in the kernel, each as wide as its box."""
    output.locator(SHOWN).first.scroll_into_view_if_needed()
    limit = time.monotonic() + PATIENCE_S
    while True:
        wanted = [served.ask(VALUES.format(chart)) for chart in charts]
        assert all(values["lines"] for values in wanted)
        found = output.locator(SHOWN).evaluate_all(CHARTS)
        is_filled = all(abs(chart.pop("empty_px")) <= 1 for chart in found)
        if is_filled and len(found) == len(wanted) and all(map(_same, found, wanted)):
            return
        assert time.monotonic() < limit, f"{charts} are {wanted}; the page has {found}"
        time.sleep(0.2)


def _same(shown: dict[str, Any], wanted: dict[str, Any]) -> bool:
    values = [[*chart["lines"], chart["points"]] for chart in (shown, wanted)]
    within = 1e-6 * max(map(abs, chain(*values[1])))
    return [[pytest.approx(y, abs=within) for y in ys] for ys in values[1]] == values[0]


def test_a_bar_dragged_in_the_browser_changes_the_plan_in_the_kernel(page: Any, served: Jupyter) -> None:
    page.goto(served.address(NOTEBOOK))
    page.get_by_role("heading", name="A first plan in five minutes").wait_for()
    page.locator("[data-status=idle]").first.wait_for()  # the kernel
    errors: list[str] = []  # from now on: Notebook 7.6 has one of its own as it starts
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    saved = served.folder / "turned-digits.plan.json"  # by the last cell
    wait(saved.exists, RUN_S, "the notebook had run")
    assert page.locator(".jp-OutputArea-output[data-mime-type*=error]").count() == 0

    row = page.locator(f"[data-tensor='{WEIGHT}']")
    output = page.locator(".jp-OutputArea").filter(has=row)
    curves = ["planner.curves.gain", "planner.curves.cost"]
    await_charts(output, served, *curves)
    monitor = page.locator(".jp-OutputArea").filter(has=page.get_by_text("Compile and train"))
    await_charts(monitor, served, "monitor.loss")
    handle = row.get_by_role("slider")
    ratio = f"planner.plan.ratio({WEIGHT!r})"
    shown = handle.get_attribute("aria-valuenow")
    before = served.ask(ratio)
    assert shown == str(round(100 * before))
    rail = row.locator(".pock-rail").bounding_box()["width"]
    drag(page, handle, rail * (0.5 if before < 0.5 else -0.5))
    wait(lambda: served.ask(ratio) != before, PATIENCE_S, "the kernel had another plan")
    after = served.ask(ratio)
    assert abs(after - before) == pytest.approx(0.5, abs=0.1)
    assert handle.get_attribute("aria-valuenow") == str(round(100 * after))
    assert served.ask("planner.state.locked_rows") == [WEIGHT]
    assert page.get_by_text("Edited by hand. 1 tensor locked.").count() == 1
    await_charts(output, served, *curves)
    before = served.ask(gain := VALUES.format(curves[0]))
    page.locator(f"[data-tensor='{OTHER}'] .pock-name").click()
    wait(lambda: served.ask(gain) != before, PATIENCE_S, "the kernel had the other tensor's curves")
    await_charts(output, served, *curves)
    assert violations(page, OUTPUTS) == []
    output.get_by_role("tab", name="Memory").click()
    await_charts(output, served, "planner.timeline.chart")
    assert violations(page, OUTPUTS) == []
    output.get_by_role("tab", name="Frontier").click()
    await_charts(output, served, "planner.frontier.chart")
    output.get_by_role("button", name="Unlock all").click()  # else no plan might fit
    before = served.ask(budget := "planner.budget.peak_bytes")
    drag(page, output.get_by_role("slider", name="Budget, Peak memory"), -60)
    wait(lambda: served.ask(budget) < before, PATIENCE_S, "the kernel had the smaller budget")
    fits = f"planner.plan.predicted['peak_bytes'] <= {budget}"
    wait(lambda: served.ask(fits), PATIENCE_S, "the kernel had a plan within it")
    await_charts(output, served, "planner.frontier.chart")
    assert violations(page, OUTPUTS) == []
    output.get_by_role("tab", name="Layers").click()

    profile = "planner.state.facts.profile"
    served.ask(f"setattr(planner, 'plan', {profile}.plan({{**{profile}.presets['head'], {WEIGHT!r}: 0.25}}))")
    wait(lambda: handle.get_attribute("aria-valuenow") == "25", PATIENCE_S, "the bar showed the plan")
    assert errors == []
