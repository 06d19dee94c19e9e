"""One small, real study for all tests of the app, and a browser for some."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from headless import is_there, launch  # noqa: E402
from required import missing  # noqa: E402


@pytest.fixture(scope="session")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of `ui_task`, measured with two seeds and ten steps."""
    from ui_task import task

    import pockgraph as pg

    path = tmp_path_factory.mktemp("study") / "blobs.db"
    with pg.Study(path, task()) as study:
        study.analyze(steps=10, seeds=(0, 1), lr=0.05, target="torch")
        _ = study.profile  # makes it, so that the file can be read without the task
    return path


@pytest.fixture(scope="session")
def facts(study_path: Path, tmp_path_factory: pytest.TempPathFactory):
    """Of a copy of the study: what a page or a job trains lands there."""
    from pockui.facts import read_facts

    return read_facts(shutil.copy(study_path, tmp_path_factory.mktemp("shown") / study_path.name))


@pytest.fixture
def state(facts):
    from pockui.state import State

    made = State()
    made.show(facts)
    return made


@pytest.fixture
def worker_finds_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that tests start can import `ui_task`, and train at a pace that leaves others room."""
    from ui_task import PAUSE_VARIABLE

    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(HERE), before])))
    monkeypatch.setenv(PAUSE_VARIABLE, "0.02")


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    sync_api = pytest.importorskip("playwright.sync_api")
    if not is_there():
        missing("Debian's chromium is not installed", "POCKUI_REQUIRE_BROWSER")
    with sync_api.sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()
