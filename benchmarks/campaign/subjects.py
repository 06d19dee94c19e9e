"""What the campaign works on: a small task, its artefacts on every target, its data."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "backend"), str(ROOT / "tests"), str(ROOT / "tests/study")]

import tiny_task  # noqa: E402

import pockgraph as pg  # noqa: E402
from pockgraph.targets import target_names  # noqa: E402

TARGETS = tuple(target_names())
# Accumulation, clipping and averages: the optimizer with the most state.
OPTIMIZER = "accumulate"


def compile_artifact(target: str, out: Path, optimizer: str = OPTIMIZER, plan: str = "sparse") -> None:
    """An artefact of the small task; parity is skipped, the tests measure it."""
    graph = tiny_task.make_graph(optimizer)
    pg.compile(graph, tiny_task.make_plan(plan, optimizer), target=target, out=out, parity=False)


def write_data(path: Path) -> Path:
    """The small task's samples as the npz file that the device's command line takes."""
    np.savez(path, **{k: v.numpy() for k, v in tiny_task.samples().items()})
    return path


def state_digest(arrays: dict[str, np.ndarray]) -> str:
    """One digest of named arrays, bit for bit."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape};".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def checkpoint_digest(path: Path) -> str:
    """Of a checkpoint's values; raises what safetensors raises for a torn file."""
    from safetensors.numpy import load_file

    return state_digest(load_file(path))


def litter(folder: Path, expected: set[str]) -> list[str]:
    """Names in `folder` that nobody asked for."""
    return sorted(p.name for p in folder.iterdir() if p.name not in expected)
