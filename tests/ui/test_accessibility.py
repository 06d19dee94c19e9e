"""What axe-core says of every state of the page, and the keyboard's ways through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from headless import violations
from test_browser import Watched, _wait, server  # noqa: F401  (a fixture)

pytestmark = pytest.mark.browser

WIDE, NARROW = {"width": 1400, "height": 1000}, {"width": 420, "height": 900}


@pytest.fixture
def opened(chromium, server: Any) -> Iterator[Callable[..., Watched]]:  # noqa: F811
    """Makes pages of a size, and looks at their errors when they are closed."""
    made: list[Watched] = []

    def open_page(size: dict[str, int]) -> Watched:
        made.append(Watched(chromium.new_page(viewport=size), server))
        return made[-1]

    yield open_page
    for watched in made:
        watched.page.close()
        assert watched.outside == []
        assert watched.errors == []


@pytest.mark.parametrize(
    ("size", "theme"), [(WIDE, "light"), (NARROW, "dark")], ids=["wide-light", "narrow-dark"]
)
def test_axe_finds_nothing_in_any_state(
    opened: Callable[..., Watched], tmp_path: Path, size: Any, theme: str
) -> None:
    pytest.importorskip("axe_playwright_python")
    watched = opened(size)
    page = watched.page
    found: dict[str, list[str]] = {}

    def look(state: str) -> None:
        if lines := violations(page):
            found[state] = lines

    watched.open(f"?theme={theme}&study=empty", until="No study yet")
    look("without a study")
    watched.open(f"?theme={theme}")
    look("opened")
    page.get_by_role("button", name="Peak memory", exact=True).first.hover()
    look("under the mouse")
    page.get_by_label("All tensors").click()
    _wait(lambda: page.locator("[data-tensor]").count() == 11)
    page.locator("[data-tensor] [role=slider]").first.focus()
    page.keyboard.press("ArrowDown")
    page.locator(".pock-tip:visible").wait_for()
    look("all tensors, one of them explained")
    page.keyboard.press("Control+a")
    page.get_by_text("9 selected").first.wait_for()
    look("several selected")
    page.keyboard.press("Escape")
    page.get_by_label("Filter tensors").fill("re:(")
    page.get_by_role("alert").get_by_text("no regular expression").wait_for()
    look("a filter that is none")
    page.get_by_label("Filter tensors").fill("nothing like it")
    page.get_by_text("Clear the filter").wait_for()
    look("nothing found")
    page.get_by_label("Filter tensors").fill("")
    page.get_by_label("Locks and rules").click()
    page.get_by_role("button", name="Lock", exact=True).click()
    page.get_by_role("alert").first.wait_for()
    field = page.get_by_label("Peak memory in kB")
    field.fill("1")
    field.press("Enter")
    page.get_by_role("alert").get_by_text("smallest").wait_for()
    look("refusals")
    page.get_by_label("Table").click()
    page.locator("table").get_by_text("head.weight").first.wait_for()
    look("table")
    page.get_by_label("Order", exact=True).click()
    page.get_by_role("option", name="Largest gain").wait_for()
    look("menu")
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Memory").click()
    page.get_by_text("Alive at the peak").wait_for()
    look("Memory")
    page.get_by_role("tab", name="Graph").click()
    page.locator("[data-row='block blocks.0']").focus()
    page.keyboard.press("Enter")
    look("Graph")
    page.get_by_role("tab", name="Train").click()
    page.get_by_text("in Python").first.wait_for()
    look("Train")
    page.get_by_role("tab", name="Export").click()
    page.get_by_role("button", name="Download plan").wait_for()
    broken = tmp_path / "broken.json"
    broken.write_text('{"schema": "pockui.plan/1"}')
    page.locator("input[type=file]").set_input_files(broken)
    page.get_by_text("not a valid plan").wait_for()
    look("Export")
    assert found == {}


def test_a_list_of_tensors_is_one_tab_stop_with_arrows_inside(opened: Callable[..., Watched]) -> None:
    watched = opened(WIDE)
    state, page = watched.open(), watched.page
    page.get_by_label("All tensors").click()
    _wait(lambda: page.locator("[data-tensor]").count() == 11)
    stops = "[data-tensor] :is(button, [tabindex]):not([tabindex='-1'])"
    assert page.locator(stops).count() == 1
    ids = [row.id for row in state.facts.rows]

    def focused() -> str:
        return page.locator("[data-tensor]").filter(has=page.locator(":focus")).get_attribute("data-tensor")

    page.locator(stops).focus()
    assert focused() == ids[0]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert focused() == ids[2]
    page.keyboard.press("Control+End")
    assert focused() == ids[-1]
    assert page.locator(stops).count() == 1
    page.keyboard.press("Control+Home")
    page.keyboard.press("Enter")
    _wait(lambda: state.selected == ids[0])
    weight = ids.index("blocks.1.0.weight")
    for _ in range(weight):
        page.keyboard.press("ArrowDown")
    assert focused() == ids[weight]
    page.keyboard.press("l")
    _wait(lambda: ids[weight] in state.locked)
    page.keyboard.press("End")
    _wait(lambda: state.ratios[ids[weight]] == 1)
    page.keyboard.press("ArrowLeft")
    _wait(lambda: state.ratios[ids[weight]] == 0.875)
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Shift+ArrowUp")
    page.get_by_text("2 selected").first.wait_for()
    page.keyboard.press("Home")
    _wait(lambda: not any(state.ratios.get(id) for id in ids[weight : weight + 2]))
    page.keyboard.press("l")  # setting locked them
    _wait(lambda: state.locked == {})
    page.keyboard.press("Control+a")
    page.get_by_text(f"{len(ids) - 2} selected").first.wait_for()  # all but the head
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Select all").wait_for()
    page.keyboard.press("Tab")
    assert page.locator("[data-tensor] :focus").count() == 0
