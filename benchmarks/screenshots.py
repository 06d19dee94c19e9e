"""Pictures of every tab of the dashboard, light and dark, wide and narrow.

    python benchmarks/screenshots.py --study out/demo-vision/study.db --out out/screenshots

Serves a copy of the study and opens it in headless Chromium. `--hero` also writes the picture that README
shows, to the path given, and `--docs` those of docs/ui.md, to a folder.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "backend"), str(ROOT / "tests/field"), str(ROOT / "tests/ui")]

from dashboard import Server  # noqa: E402
from headless import SETTLED, launch  # noqa: E402

WIDTHS = {"wide": 1400, "narrow": 420}
HERO = {"width": 1400, "height": 1000}
DOCS = {"width": 1280, "height": 860}
PAUSE_MS = 1500  # longer than the pause after which charts are drawn
PATIENCE_MS = 120_000


def main() -> int:
    """Take the pictures; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--task", help="what training in the page may run, as for `pockui serve`")
    parser.add_argument("--out", type=Path, default=Path("out/screenshots"), help="a folder")
    parser.add_argument("--hero", type=Path, help="where README's picture goes")
    parser.add_argument("--docs", type=Path, help="where the pictures of docs/ui.md go: a folder")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    task = ("--task", options.task) if options.task else ()
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = launch(playwright)
        server = Server(Path(folder), copied(options.study, Path(folder)), *task)
        try:
            for (name, width), theme in product(WIDTHS.items(), ("light", "dark")):
                page = opened(browser, server, {"width": width, "height": 1000}, theme)
                for tab in page.get_by_role("tab").all():
                    tab.click()
                    rest(page)
                    view = tab.inner_text().lower()
                    page.screenshot(path=options.out / f"{view}-{name}-{theme}.png", full_page=True)
                page.close()
            if options.docs:
                for_docs(browser, server, options.docs)
            if options.hero:
                page = opened(browser, server, HERO, "light")
                page.screenshot(path=options.hero)
        finally:
            server.end()
            browser.close()
    print(f"{len(list(options.out.glob('*.png')))} pictures are in {options.out}.")
    return 0


def copied(study: Path, folder: Path) -> str:
    """A copy of a study in the served folder, whose list has it then; its name."""
    with closing(sqlite3.connect(study)) as source, closing(sqlite3.connect(folder / study.name)) as copy:
        source.backup(copy)
    return study.name


def for_docs(browser: Any, server: Server, folder: Path) -> None:
    """One picture of each view, as tall as a screen or as what it shows."""
    page = opened(browser, server, DOCS, "light")
    for tab in page.get_by_role("tab").all():
        tab.click()
        rest(page)
        page.screenshot(path=folder / f"ui-{tab.inner_text().lower()}.png")
    page.goto(f"http://localhost:{server.port}/?start=1")
    page.get_by_text("Make the study").wait_for()
    rest(page)
    page.screenshot(path=folder / "ui-start.png")


def opened(browser: Any, server: Server, viewport: dict[str, int], theme: str) -> Page:
    """The page once its plan is there."""
    page = browser.new_page(viewport=viewport)
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"http://localhost:{server.port}/?theme={theme}")
    page.get_by_role("tab", name="Plan", exact=True).wait_for()
    rest(page)
    return page


def rest(page: Page) -> None:
    """Wait until charts are drawn and nothing moves."""
    page.wait_for_timeout(PAUSE_MS)
    page.evaluate(SETTLED)


if __name__ == "__main__":
    sys.exit(main())
