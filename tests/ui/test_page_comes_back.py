"""A real server and browser: what was chosen survives a reload, a second browser, a server's restart."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

sys.path.append(str(Path(__file__).parents[1] / "field"))
import dashboard  # pyright: ignore

WEIGHT = "blocks.1.0.weight"
PATIENCE_MS = 60_000

pytestmark = pytest.mark.browser


def _opened(browser: Any, url: str) -> Any:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(PATIENCE_MS)
    page.goto(url)
    page.locator("[data-tensor]").first.wait_for()
    return page


def _share(page: Any) -> Any:
    return page.get_by_role("slider", name=f"Trained share of {WEIGHT}")


def _press(handle: Any, *keys: str) -> None:
    """One burst, however busy the machine is."""
    handle.focus()
    handle.evaluate(
        "(e, keys) => keys.forEach((key) => e.dispatchEvent(new KeyboardEvent('keydown', {key})))",
        list(keys),
    )


def _stands_at(page: Any, percent: int) -> None:
    page.wait_for_function(
        """([name, percent]) => [...document.querySelectorAll("*")].some(function find(e) {
          return (e.ariaLabel === name && e.getAttribute("aria-valuenow") === String(percent))
            || (e.shadowRoot && [...e.shadowRoot.querySelectorAll("*")].some(find));
        })""",
        arg=[f"Trained share of {WEIGHT}", percent],
    )


def _address_has(page: Any, pattern: str) -> None:
    page.wait_for_function(f"new RegExp({pattern!r}).test(location.search)")


def test_what_was_chosen_comes_back_and_keys_undo_it(chromium, facts, tmp_path: Path) -> None:
    served = dashboard.Server(tmp_path, str(facts.path))
    try:
        page = _opened(chromium, f"http://localhost:{served.port}/")
        assert "plan=" not in page.url
        handle = _share(page)
        _press(handle, "Home", *["ArrowRight"] * 3)
        _address_has(page, "plan=")
        _stands_at(page, 38)  # three of eight channels
        page.get_by_label("Lock stem.weight", exact=True).click()
        page.get_by_label("Filter tensors").fill("block")
        _address_has(page, "filter=block")

        page.reload()
        _stands_at(page, 38)
        assert page.get_by_label("Filter tensors").input_value() == "block"
        page.get_by_text("2 tensors locked.").wait_for()
        other = _opened(chromium, page.url)
        _stands_at(other, 38)
        other.close()

        before = parse_qs(urlsplit(page.url).query)["plan"]
        handle = _share(page)
        _press(handle, *["ArrowRight"] * 2)
        _stands_at(page, 63)
        page.keyboard.press("Control+z")  # while the burst of keys still waits for more
        _stands_at(page, 38)
        page.wait_for_function(
            "plan => new URLSearchParams(location.search).get('plan') === plan", arg=before[0]
        )
        page.keyboard.press("Control+Shift+z")
        _stands_at(page, 63)
        page.keyboard.press("Control+z")
        _stands_at(page, 38)
        page.keyboard.press("Control+y")
        _stands_at(page, 63)
        page.wait_for_function(
            "plan => new URLSearchParams(location.search).get('plan') !== plan", arg=before[0]
        )

        served.end()
        lost = page.get_by_role("alert").get_by_text("connection to the server is lost")
        lost.wait_for()
        served = dashboard.Server(tmp_path, str(facts.path), port=served.port)
        lost.wait_for(state="detached")
        _stands_at(page, 63)
        page.get_by_text("2 tensors locked.").wait_for()

        page.goto(f"http://localhost:{served.port}/?run=0badcafe&plan=eJwrT&order=best")
        page.get_by_text("This study keeps no run '0badcafe'.").wait_for()
        said = (
            page.get_by_role("alert").filter(has_text="The plan in the address cannot be read").inner_text()
        )
        assert "order='best'" in said
        page.wait_for_function("!location.search.includes('run=')")
        page.close()
    finally:
        served.process.kill()
    assert not re.search(r"Traceback", served.log.read_text()), served.log.read_text()
