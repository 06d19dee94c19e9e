"""Artefacts of a small model, compiled and copied for tests that damage, forge or overwrite them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from users import MOMENTUM, batches, mlp, task

import pockgraph as pg

DATA = batches(8, 12)


def compiled(folder: Path, target: str, net: nn.Module | None = None, **how: Any) -> pg.Artifact:
    torch.manual_seed(0)
    options = {k: how.pop(k) for k in ("loss", "data") if k in how}
    graph = pg.build(task(net or mlp(), options.pop("data", DATA), **options), how.pop("optimizer", MOMENTUM))
    return pg.compile(graph, target=target, out=folder, parity=False)


@pytest.fixture(scope="session")
def artefact_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    found: dict[str, Path] = {}

    def make(target: str) -> Path:
        if target not in found:
            found[target] = compiled(tmp_path_factory.mktemp("artefact_of") / target, target).path
        return found[target]

    return make


@pytest.fixture
def artefact_copy(artefact_of: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda target: Path(shutil.copytree(artefact_of(target), tmp_path / "artefact"))


def rehash(folder: Path) -> None:
    """Make the manifest agree with the files, as whoever forges them can."""
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    for name in data["files"]:
        content = (folder / name).read_bytes()
        data["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    path.write_text(json.dumps(data))


def listed(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def tanh() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 5))
