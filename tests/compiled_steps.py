"""The small task, compiled once per target and plan; tests work on copies of the folders."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tiny_task import Compile

    from pockgraph.artifact import Artifact


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """`compiled(target, plan, optimizer, seed, predict)`: an artefact that tests must not change."""
    from tiny_task import CHOICES, make_graph

    from pockgraph.artifact.compiler import compile as compile_graph
    from pockgraph.plan import Plan

    @functools.cache
    def make(
        target: str, plan: str = "sparse", optimizer: str = "sgd", seed: int = 0, predict: str = ""
    ) -> Artifact:
        graph = make_graph(optimizer, seed, predict)
        out = tmp_path_factory.mktemp("artefacts") / f"{target}-{plan}-{optimizer}-{seed}-{predict}"
        return compile_graph(graph, Plan.of(graph, CHOICES[plan]), target=target, out=out)

    return make


@pytest.fixture
def copied(compiled: Compile, tmp_path: Path) -> Callable[..., Path]:
    """Like `compiled`: the folder of a copy of one's own."""

    def make(*args: str, **kwargs: str) -> Path:
        folder = tmp_path / "artefact"
        shutil.copytree(compiled(*args, **kwargs).path, folder)
        return folder

    return make
