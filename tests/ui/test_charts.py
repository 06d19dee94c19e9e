"""The charts in a real browser: drawn without Plotly, and used by mouse and keyboard."""

from __future__ import annotations

import pytest
from test_browser import Watched, _wait, server, watched  # noqa: F401  (fixtures)

from pockui.info import format as fmt

pytestmark = pytest.mark.browser


def test_the_budget_is_dragged_on_the_frontier_and_its_points_are_taken_by_keyboard(
    watched: Watched,  # noqa: F811
) -> None:
    state, page = watched.open(), watched.page
    assert page.evaluate("typeof window.Plotly") == "undefined"  # its 4.8 MB are not fetched
    page.locator(".pock-point").first.wait_for()
    limit = page.get_by_role("slider", name="Budget, Peak memory, kB")
    before = state.budget.peak_bytes
    watched.drag(limit, 40)
    _wait(lambda: state.budget.peak_bytes > before and state.can_undo)
    dragged = state.budget.peak_bytes
    assert state.prediction.figures.peak_bytes <= dragged
    bar = page.get_by_role("slider", name="Peak memory", exact=True)
    _wait(lambda: f"{dragged / 1e3:.4g}"[:3] in bar.get_attribute("aria-valuetext"))
    limit.press("ArrowLeft")
    _wait(lambda: state.budget.peak_bytes < dragged)
    limit.press("End")
    _wait(lambda: state.budget.peak_bytes is None)
    assert limit.get_attribute("aria-valuetext") == "no limit"

    points = page.locator(".pock-point")
    assert page.locator(".pock-point[tabindex='0']").count() == 1
    points.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    second = page.locator(".pock-point:focus")
    assert "click to take it" in second.get_attribute("aria-label")
    index = int(second.get_attribute("data-key").removeprefix("point-"))
    page.keyboard.press("Enter")
    _wait(lambda: state.origin == "frontier" and state.plan == state.facts.frontier("peak_bytes")[index])
    _wait(lambda: page.locator(f".pock-point[data-key='point-{index}']:focus").count() == 1)


def test_a_chart_says_what_stands_where_the_pointer_is(watched: Watched) -> None:  # noqa: F811
    watched.open()
    page = watched.page
    now = page.locator(".pock-chart").first.locator("circle[fill=transparent]").last
    now.scroll_into_view_if_needed()
    now.hover(force=True)
    page.locator(".pock-tip:visible").get_by_text("this plan:").wait_for()


def test_the_memory_of_a_step_follows_a_drag_and_says_what_is_alive_where(
    watched: Watched,  # noqa: F811
) -> None:
    state, page = watched.open(), watched.page
    page.get_by_role("tab", name="Memory").click()
    page.get_by_text("This plan peaks at").wait_for()
    moment = page.get_by_role("slider", name="Moment of the step")

    def peak() -> str:
        return f"Alive at the peak: {fmt.size(state.prediction.figures.peak_bytes)}"

    page.get_by_role("heading", name=peak()).wait_for()
    state.take(state.facts.profile.plan(state.facts.known_plans["Full"].choice))
    page.get_by_role("heading", name=peak()).wait_for()
    moment.press("Home")
    page.get_by_role("heading", name="Alive at this moment").wait_for()
    assert "forward" in moment.get_attribute("aria-valuetext")
    page.locator(".pock-tip:visible").get_by_text("forward").first.wait_for()
    page.get_by_role("button", name="Go to the peak").click()
    page.get_by_role("heading", name=peak()).wait_for()
    freed = page.get_by_role("group", name="Values alive").locator("td:nth-child(4)").first
    assert "freed" not in freed.text_content()
    page.get_by_label("Freeze").click()
    page.get_by_role("option", name="stem", exact=True).click()
    page.get_by_role("status").get_by_text("Freezing stem takes").wait_for()
    assert state.selected == "stem.weight"


def test_the_graph_is_a_tree_that_follows_the_plan_and_opens_by_keyboard(
    watched: Watched,  # noqa: F811
) -> None:
    state, page = watched.open(), watched.page
    page.get_by_role("tab", name="Graph").click()
    tree = page.get_by_role("treegrid", name="Training graph")
    stem = tree.locator("[data-row='layer stem']")
    stem.focus()
    assert tree.locator("tr[tabindex='0']").count() == 1
    page.keyboard.press("ArrowRight")
    assert stem.get_attribute("aria-expanded") == "true"
    page.keyboard.press("ArrowDown")
    assert page.locator("tr:focus").get_attribute("data-row") == "forward stem"
    state.take(state.facts.profile.plan({"head.bias": 1.0}))
    tree.get_by_text("backward, pruned").wait_for()  # what is open stays so
    assert page.locator("tr:focus").get_attribute("data-row") == "forward stem"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    _wait(lambda: stem.get_attribute("aria-expanded") == "false")
    page.get_by_text("Nothing compiled yet.").wait_for()
    page.get_by_role("button", name="Check this plan").wait_for()


def test_nothing_moves_while_a_handle_is_dragged(watched: Watched) -> None:  # noqa: F811
    state, page = watched.open(), watched.page
    places = """() => {
      const out = {};
      let charts = 0;
      (function walk(root) {
        for (const e of root.querySelectorAll("h2, .pock-layers, .pock-budget, .pock-chart")) {
          const name = e.className + (e.matches(".pock-chart") ? charts++ : e.textContent.slice(0, 9));
          out[name] = Math.round(e.getBoundingClientRect().top + e.clientHeight);
        }
        for (const e of root.querySelectorAll("*")) if (e.shadowRoot) walk(e.shadowRoot);
      })(document);
      return out;
    }"""
    page.locator(".pock-point").first.wait_for()
    before = page.evaluate(places)
    assert len(before) >= 6
    track = page.locator(".pock-budget-track").first.bounding_box()
    y = track["y"] + track["height"] / 2
    page.mouse.move(track["x"] + 0.6 * track["width"], y)
    page.mouse.down()
    for share in (0.4, 0.9, 0.2, 0.01, 0.6):  # at 0.01 nothing fits, which is said
        page.mouse.move(track["x"] + share * track["width"], y)
        _wait(lambda share=share: (state.problem is not None) == (share == 0.01))
        page.wait_for_timeout(300)
        assert page.evaluate(places) == before, share
    page.mouse.up()
    rail = page.locator("[data-tensor='blocks.1.0.weight'] .pock-rail").bounding_box()
    page.mouse.move(rail["x"] + 0.5 * rail["width"], rail["y"] + rail["height"] / 2)
    page.mouse.down()
    for share in (0.2, 0.9, 0.5):
        page.mouse.move(rail["x"] + share * rail["width"], rail["y"] + rail["height"] / 2)
        page.wait_for_timeout(300)
        assert page.evaluate(places) == before, share
    page.mouse.up()
