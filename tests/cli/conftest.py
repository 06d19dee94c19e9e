"""A small project of one's own in an empty folder, and the command line run in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from projects import PROJECT, Cli, Result
from typer.testing import CliRunner

from pockui.cli import app


@pytest.fixture
def cli() -> Cli:
    """`cli("study", "ls")`: run a command in this process; exceptions that are no exit are raised."""

    def run(*args: object) -> Result:
        result = CliRunner().invoke(app, [str(a) for a in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Result(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder with `my_project.py` in it."""
    (tmp_path / "my_project.py").write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    yield tmp_path
    sys.modules.pop("my_project", None)


@pytest.fixture
def study(project: Path, cli: Cli) -> Path:
    """The project, analysed in seconds."""
    path = project / "study.db"
    result = cli(
        "analyze",
        "my_project:task",
        "--study",
        path,
        "--steps",
        20,
        "--ratios",
        "1,0.5",
        "--lr",
        0.1,
        "--json",
    )
    assert result.code == 0, result.err
    return path
