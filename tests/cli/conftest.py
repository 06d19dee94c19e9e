"""A small project of one's own in an empty folder, and the command line run in it."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from projects import PROJECT, Cli, Result
from typer.testing import CliRunner

from pockui.cli import app

ANALYSE = (
    "analyze", "my_project:task", "--steps", 20, "--ratios", "1,0.5", "--lr", 0.1, "--json", "--study"
)  # fmt: skip


def _run(*args: object) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Result(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def cli() -> Cli:
    """`cli("study", "ls")`: run a command in this process; exceptions that are no exit are raised."""
    return _run


@contextlib.contextmanager
def _project_in(folder: Path) -> Iterator[None]:
    """`folder` as the working folder, with `my_project.py` in it."""
    (folder / "my_project.py").write_text(PROJECT)
    before = [p for p in sys.path if p != str(folder)]
    with contextlib.chdir(folder):
        try:
            yield
        finally:
            sys.path[:] = before
            sys.modules.pop("my_project", None)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """An empty working folder with `my_project.py` in it."""
    with _project_in(tmp_path):
        yield tmp_path


@pytest.fixture(scope="session")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's study, analysed in seconds."""
    folder = tmp_path_factory.mktemp("analysed")
    with _project_in(folder):
        result = _run(*ANALYSE, folder / "study.db")
    assert result.code == 0, result.err
    whole = folder / "whole.db"  # with what is in the log only
    with (
        contextlib.closing(sqlite3.connect(folder / "study.db")) as source,
        contextlib.closing(sqlite3.connect(whole)) as copy,
    ):
        source.backup(copy)
    return whole


@pytest.fixture
def study(project: Path, analysed: Path) -> Path:
    """A copy of it, in the project's folder."""
    return Path(shutil.copy(analysed, project / "study.db"))
