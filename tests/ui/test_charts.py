"""The charts in a real browser: drawn without Plotly, and used by mouse and keyboard."""

from __future__ import annotations

import pytest
from test_browser import Watched, _wait, server, watched  # noqa: F401  (fixtures)

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
