"""What a runtime has read of a mapped file leaves the process's memory."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import pockgraph as pg
from pockgraph.runtime import Trainer
from pockgraph.runtime.mapped_files import drop_pages, pages_dropped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the pages of a process are read from /proc")
SIZE = 8 << 20


def _resident_bytes(file: Path) -> int:
    """Of what this process has mapped of it."""
    resident, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key = line.split()[0]
        if not key.endswith(":"):
            inside = line.endswith(str(file))
        elif inside and key == "Rss:":
            resident += int(line.split()[1]) * 1024
    return resident


def test_pages_that_were_read_leave_memory_and_come_back_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "weights of a net.bin"
    file.write_bytes(np.arange(SIZE // 4, dtype=np.int32).tobytes())
    with file.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as held:
        with pages_dropped(file):
            whole = bytes(held)
        assert _resident_bytes(file) == 0
        assert bytes(held) == whole == file.read_bytes()
        assert _resident_bytes(file) == SIZE
        assert drop_pages(file) == SIZE
        assert _resident_bytes(file) == 0


def test_pages_that_can_be_written_stay(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(bytes(SIZE))
    with file.open("r+b") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY) as held:
        held[:4] = b"kept"
        assert drop_pages(file) == 0
        assert held[:4] == b"kept"


def test_openvino_holds_frozen_weights_in_the_order_of_its_kernels_only(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1024, 2048), nn.ReLU(), nn.Linear(2048, 4))
    batch = {"x": torch.randn(8, 1024), "y": torch.randn(8, 4)}
    task = pg.Task(
        "frozen", model, lambda m, b: (m(b["x"]) - b["y"]).square().mean(),
        lambda m, b: (m(b["x"]) - b["y"]).square().mean(1), [batch], [batch],
    )  # fmt: skip
    graph = pg.build(task, pg.SGD(lr=1e-3))
    pg.compile(graph, pg.Plan.head(graph), target="openvino", out=tmp_path / "out")
    frozen = tmp_path / "out" / "train.bin"
    assert frozen.stat().st_size >= SIZE
    trainer = Trainer.load(tmp_path / "out")
    assert _resident_bytes(frozen) < SIZE / 8
    first, second = (trainer.step(batch).loss for _ in range(2))
    assert second < first
    assert _resident_bytes(frozen) < SIZE / 8
