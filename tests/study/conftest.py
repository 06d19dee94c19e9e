"""Studies are made many times here; their one graph is built once."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from pathlib import Path

import pytest
from shapes_task import OPTIMIZER, make_shapes

from pockgraph.store.store import APPLICATION_ID
from pockgraph.study import Study
from pockgraph.train_graph import builder as autodiff

DATA = Path(__file__).parent / "data"


_build = autodiff.build


@functools.cache
def _built(task, optimizer):
    return _build(task, optimizer)


@pytest.fixture
def one_build(monkeypatch):
    """`build` gives the same graph for the same task object and optimizer."""
    _built(make_shapes(), OPTIMIZER)
    monkeypatch.setattr(autodiff, "build", _built)


@pytest.fixture
def task():
    return make_shapes()


@pytest.fixture
def study(tmp_path: Path, task, one_build):
    with Study(tmp_path / "shapes.db", task, OPTIMIZER) as s:
        yield s


def make_older(path: Path, version: int) -> Path:
    """A study as a release of schema `version` left it: after 7 of 11 measurements, closed."""
    with contextlib.closing(sqlite3.connect(path)) as c:
        c.executescript((DATA / f"version{version}.sql").read_text(encoding="utf-8"))
        c.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        c.execute(f"PRAGMA user_version = {version}")
        c.execute("PRAGMA journal_mode = WAL")
    return path


@pytest.fixture(params=[1, 2, 3, 4])
def older(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return make_older(tmp_path / "old.db", request.param)
