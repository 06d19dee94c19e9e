"""Studies are made many times here; their one graph is built once."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from shapes_task import OPTIMIZER, make_shapes

from pockgraph.study import Study
from pockgraph.train_graph import builder as autodiff


@functools.cache
def _built(task, optimizer):
    return autodiff.build(task, optimizer)


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
