"""A task of one's own in the dashboard, from the console script in its folder to a trained artefact."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from pockgraph.plan import Plan
from pockgraph.runtime import Trainer
from pockgraph.study import Study

sys.path.append(str(Path(__file__).parents[1] / "field"))

import dashboard  # pyright: ignore

pytestmark = pytest.mark.browser

TASK = "my_project:task"
PATIENCE_MS = 90_000


@pytest.fixture
def folder(study_path: Path, tmp_path: Path) -> Path:
    """A folder with a module of one's own, and the study of its task."""
    shutil.copy(Path(__file__).with_name("ui_task.py"), tmp_path / "my_project.py")
    study = shutil.copy(study_path, tmp_path / "study.db")
    with closing(sqlite3.connect(study)) as db:
        db.execute("UPDATE facts SET value = ? WHERE key = 'reference'", (f'"{TASK}"',))
        db.commit()
    return tmp_path


def test_the_console_script_trains_and_exports_a_task_of_its_folder(folder: Path, chromium) -> None:
    served = dashboard.ConsoleServer(folder, "study.db", "--task", TASK)
    page = chromium.new_page(accept_downloads=True)
    page.set_default_timeout(PATIENCE_MS)
    try:
        page.goto(f"http://localhost:{served.port}/")
        page.get_by_role("tab", name="Train").click()
        page.get_by_text(f"Runs {TASK}, imported in {folder}").wait_for()
        page.get_by_label("Target").click()
        page.get_by_role("option", name="PyTorch").or_(page.get_by_role("option", name="PyTorch")).click()
        page.get_by_label("Steps").fill("5")
        page.get_by_label("Steps").press("Enter")
        page.get_by_label("Measure time and memory").uncheck()
        page.get_by_role("button", name="Compile and train").click()
        page.get_by_text("Done in").wait_for()
        page.get_by_label("Runs of this study").filter(has_text="Run 1 ·").wait_for()  # no longer "running"
        page.get_by_role("tab", name="Export").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download plan").click()
        download.value.save_as(folder / "plan.json")
    finally:
        page.close()
        served.process.kill()
    plan = Plan.load(folder / "plan.json")
    assert Trainer.load(folder / "out/blobs-torch").plan.tensors == plan.tensors
    with Study(folder / "study.db") as study:
        (run,) = study.runs()
    assert (run.status, run.steps, run.plan.tensors) == ("done", 5, plan.tensors)
