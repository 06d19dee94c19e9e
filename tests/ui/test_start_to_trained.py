"""From an empty folder to a trained plan, in a browser: a study is made, opens, and trains with AdamW."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from headless import violations

from pockgraph.runtime import Trainer
from pockgraph.study import Study

sys.path.append(str(Path(__file__).parents[1] / "field"))

import dashboard  # pyright: ignore

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PATIENCE_MS = 180_000


def test_a_newcomer_makes_a_study_and_trains_with_another_optimizer(chromium, tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("ui_task.py"), tmp_path / "my_project.py")
    served = dashboard.Server(tmp_path)
    page = chromium.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(PATIENCE_MS)
    try:
        page.goto(f"http://localhost:{served.port}/")
        page.get_by_text("No study yet").wait_for()
        assert violations(page) == []
        page.get_by_label("Task", exact=True).click()
        page.get_by_role("option", name="my_project:task").click()
        page.get_by_text("out/my_project.db").wait_for()
        page.get_by_role("button", name="Make the study").click()
        page.get_by_role("button", name="Cancel").wait_for()
        page.reload()  # the process goes on, and the page finds it again
        page.locator("[data-tensor]").first.wait_for()

        page.get_by_role("tab", name="Train").click()
        page.get_by_label("Target").click()
        page.get_by_role("option", name="PyTorch").click()
        page.get_by_label("Optimizer").click()
        page.get_by_role("option", name="AdamW").click()
        rate = page.get_by_label("Learning rate")
        rate.fill("fast")
        rate.press("Enter")
        page.get_by_role("alert").get_by_text("'fast' is no learning rate").wait_for()
        rate.fill("0.02")
        rate.press("Enter")
        page.get_by_label("Steps").fill("6")
        page.get_by_label("Steps").press("Enter")
        page.get_by_label("Measure time and memory").uncheck()
        page.wait_for_function("/optimizer%3Aadamw/.test(location.search)")
        page.get_by_text("pg.AdamW(lr=0.02").wait_for()
        page.get_by_role("button", name="Compile and train").click()
        page.get_by_text("Done in").wait_for()
        page.reload()
        page.get_by_text("Done in").wait_for()
        page.get_by_text("pg.AdamW(lr=0.02").wait_for()
        assert "study=out%2Fmy_project.db" in page.url

        page.get_by_role("link", name="Studies").click()
        page.get_by_role("link", name="out/my_project.db").wait_for()
    finally:
        page.close()
        served.end()
    with Study(tmp_path / "out/my_project.db") as study:
        (run,) = study.runs()
    assert (run.status, run.steps, run.optimizer["name"], run.lr) == ("done", 6, "adamw", 0.02)
    assert Trainer.load(tmp_path / "out/blobs-torch").manifest.optimizer["name"] == "adamw"
    assert not re.search(r"Traceback", served.log.read_text()), served.log.read_text()
