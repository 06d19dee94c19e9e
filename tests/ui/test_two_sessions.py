"""Two browsers on one study: a plan that one verifies has its point in the frontier of both."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from pockgraph.study import Study

sys.path.append(str(Path(__file__).parents[1] / "field"))

import dashboard  # pyright: ignore

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PATIENCE_MS = 180_000


def _opened(chromium: Any, server: dashboard.Server) -> Any:
    page = chromium.new_context().new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"http://localhost:{server.port}/")
    page.get_by_role("button", name="Verify this plan").wait_for()
    return page


def test_a_plan_that_one_verifies_has_its_point_in_the_other(
    chromium, study_path: Path, tmp_path: Path, worker_finds_task: None
) -> None:
    study = shutil.copy(study_path, tmp_path / "blobs.db")
    server = dashboard.Server(tmp_path, str(study), "--task", "ui_task:task")
    point = re.compile(r"^measured: .*trained 2 times: .*forecast now: ")
    pages: list[Any] = []
    try:
        pages += (_opened(chromium, server) for _ in range(2))
        one, other = pages
        for page in pages:
            page.evaluate("window.stays = true")
            assert page.get_by_label(point).count() == 0
        other.get_by_role("button", name="Head", exact=True).click()  # looks at another plan than the first
        one.get_by_role("button", name="Verify this plan").click()
        one.get_by_text(re.compile("^Measured .* in 2 trainings, ")).wait_for()
        for page in pages:
            page.get_by_label(point).wait_for()
            assert page.evaluate("window.stays"), "no page was loaded again"
        assert other.get_by_text("Trains it as the analysis trained").is_visible()  # the other's own plan
        pages.append(_opened(chromium, server))
        pages[-1].get_by_text("This plan was trained 2 times as the analysis trained: measured").wait_for()
    finally:
        for page in pages:
            page.context.close()
        server.end()
    with Study(study, read_only=True) as kept:
        assert [(run.origin, run.status) for run in kept.runs()] == [("verify", "done")] * 2
    assert "Traceback" not in server.log.read_text()
