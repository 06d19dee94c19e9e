"""A user's project, its artefact, plan, study and data as files, and what the command lines say of them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import pockgraph as pg
from pockgraph.runtime.command import main as device
from pockui.cli import app

MOST_LINES = 8
SAYS_ONLY_WHAT_IT_DOES = ("Loading ", "Deriving ", "Compiling ", "Measuring ", "Training ", "Agrees ", "Not ")

PROJECT = """
import torch
from torch import nn
from torch.nn import functional as F
import pockgraph as pg


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.fc(x).relu())


def arrays(n=32):
    g = torch.Generator().manual_seed(0)
    return {"x": torch.randn(n, 4, generator=g), "y": torch.randint(0, 3, (n,), generator=g)}


def loss(model, batch):
    return F.cross_entropy(model(batch["x"]), batch["y"])


def metric(model, batch):
    return (model(batch["x"]).argmax(1) == batch["y"]).float()


def make(**changes):
    torch.manual_seed(0)
    parts = dict(name="clouds", model=Net(), loss=loss, metric=metric, train=pg.Batches(arrays(), 8))
    parts |= dict(eval=pg.Batches(arrays(), 8), validation=pg.Batches(arrays(), 8))
    return pg.Task(**(parts | changes))


task = make
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, its artefact, plan, study and data, and files that are none of these."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "my_project.py").write_text(PROJECT)
    space: dict[str, Any] = {}
    exec(compile(PROJECT, str(folder / "my_project.py"), "exec"), space)
    task = space["task"]()
    graph = pg.build(task, pg.SGD(lr=0.1))
    plan = pg.Plan.full(graph)
    plan.save(folder / "plan.json")
    pg.compile(graph, plan, target="openvino", out=folder / "out")
    study = pg.Study(folder / "study.db", task, pg.SGD(lr=0.1))
    study.analyze(steps=2, ratios=(1.0,), lr=0.1, target="torch")
    assert study.profile.tensors
    arrays = {k: v.numpy() for k, v in space["arrays"]().items()}
    np.savez(folder / "data.npz", **arrays)
    np.savez(folder / "lacks.npz", x=arrays["x"])
    np.savez(folder / "narrow.npz", x=arrays["x"][:, :3], y=arrays["y"])
    np.savez(folder / "short.npz", x=arrays["x"][:9], y=arrays["y"])
    np.savez(folder / "empty.npz", x=arrays["x"][:0], y=arrays["y"][:0])
    np.savez(folder / "words.npz", x=arrays["x"].astype(str), y=arrays["y"])
    np.savez(folder / "objects.npz", x=np.array([{}] * 32, dtype=object), y=arrays["y"])
    np.savez(folder / "nan.npz", x=arrays["x"] * np.nan, y=arrays["y"])
    text = (folder / "plan.json").read_text()
    (folder / "cut.json").write_text(text[:99])
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "list.json").write_text("[1]")
    (folder / "newer.json").write_text(text.replace("pockui.plan/1", "pockui.plan/9"))
    (folder / "extra.json").write_text(text.replace('"task"', '"colour": 1, "task"', 1))
    (folder / "another.json").write_text(text.replace("fc.", "fd."))
    (folder / "latin.json").write_bytes('{"é": 1}'.encode("latin-1"))
    (folder / "text.txt").write_text("hello\n")
    (folder / "binary.bin").write_bytes(bytes(range(256)) * 9)
    (folder / "used").mkdir()
    (folder / "used" / "mine.txt").write_text("mine")
    (folder / "bare").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "circle").symlink_to("circle")
    return folder


@pytest.fixture
def project(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with all of that; nothing a case does reaches the next one."""
    for path in built.iterdir():
        if path.name not in ("pipe", "circle"):
            (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    yield tmp_path
    for name in ("my_project", "mine"):
        sys.modules.pop(name, None)


def told(*command: object, status: int = 2) -> str:
    """The paragraph that `pockui` ends with, on one line."""
    result = CliRunner().invoke(app, [str(c) for c in command])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == status, result.output
    return one_paragraph(result.stdout + result.stderr)


def told_by_device(capfd: pytest.CaptureFixture[str], *command: object, status: int = 2) -> str:
    """The same of `python -m pockgraph.runtime`."""
    try:
        code = device([str(c) for c in command])
    except SystemExit as e:  # argparse's
        code = e.code
    out, err = capfd.readouterr()
    assert code == status, err
    return one_paragraph(out + err)


def one_paragraph(text: str) -> str:
    assert "Traceback" not in text
    assert "bug of pockui" not in text
    lines = [
        line for line in text.splitlines() if line.strip() and not line.startswith(SAYS_ONLY_WHAT_IT_DOES)
    ]
    assert 0 < len(lines) <= MOST_LINES, text
    return " ".join(" ".join(lines).replace("│", " ").split())
