"""A study that was analysed, as a file, for tests that share, damage or protect it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from users import batches, mlp, task

import pockgraph as pg
from pockgraph.store.store import APPLICATION_ID

HERE = Path(__file__).parent
SETTINGS: dict[str, Any] = {"steps": 2, "ratios": (1.0, 0.5), "lr": (0.01, 0.05), "target": "torch"}


def small_task() -> pg.Task:
    torch.manual_seed(0)
    return task(mlp(), batches(8, 12))


def table(study: pg.Study) -> dict[Any, Any]:
    return {
        (m.purpose, m.candidate, m.seed, m.lr): (m.status, m.metric, m.loss) for m in study.measurements()
    }


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was analysed to its end, with its profile and a plan."""
    path = tmp_path_factory.mktemp("studies") / "whole.db"
    with pg.Study(path, small_task()) as study:
        study.analyze(**SETTINGS)
        study.save_plan("head", pg.Plan.head(study.graph))
        study.save_plan("full", pg.Plan.full(study.graph))
        _ = study.profile
    return path


@pytest.fixture
def study_file(measured: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copy(measured, tmp_path / "study.db")


def change(path: Path, sql: str, *values: Any) -> None:
    """As another program, or a damaged disk, would."""
    with closing(sqlite3.connect(path)) as c, c:
        c.execute(sql, values)


def at_measurement(number: int, do: Callable[[], Any]) -> Callable[[Any], None]:
    """A progress callback that acts when so many measurements are finished."""
    finished = iter(range(1, 10**6))
    return lambda p: p.last is not None and next(finished) == number and do()


def without_its_log(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as c:
        c.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert not Path(f"{path}-wal").exists()
    return path


def version_1(path: Path) -> Path:
    """A study that an earlier release made and was stopped at."""
    text = (HERE.parent / "study" / "data" / "version1.sql").read_text(encoding="utf-8")
    with closing(sqlite3.connect(path)) as c:
        c.executescript(text)
        c.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        c.execute("PRAGMA user_version = 1")
        c.execute("PRAGMA journal_mode = WAL")
    return path
