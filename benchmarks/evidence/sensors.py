"""The pair of a sensor: a smartwatch on the other wrist.

Ten people did seven shoulder exercises with a six-axis watch on each arm, at 50 Hz (D. Burns et al., arXiv
1802.01489; with seglearn). A network that learnt from the left arms adapts to the right ones: the axes are
mirrored.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from pockgraph.task import Batches, Task
from pockui.demo.data import Arrays, cached

from .fetch import asset
from .images import accuracy, loss
from .networks import SensorNetwork, drawn, load, pretrained

BATCH = 8
WINDOW, HOP = 100, 50  # samples: two seconds, and one
LEFT, RIGHT = 0, 1
# Train, validation and test are other people: a window of one must not tell of the next.
PEOPLE = ((1, 2, 3, 4, 5), (6, 7), (8, 9, 10))
CLASSES = 7


def watch() -> Task:
    """Seven exercises; five people's right arms train, two choose, three judge."""
    stored = cached(f"evidence-watch-{WINDOW}-1", _windows)
    x, y = stored["x"], stored["y"].astype(np.int64)

    def of(side: int, people: tuple[int, ...]) -> Arrays:
        rows = (stored["side"] == side) & np.isin(stored["person"], people)
        return {"x": x[rows], "y": y[rows]}

    net = drawn(0, SensorNetwork, x.shape[1], CLASSES)
    left = Batches(of(LEFT, PEOPLE[0]), 32)
    state = cached("evidence-watch-left-1", lambda: pretrained(net, left, steps=800, lr=0.05))
    train, validation, test = (of(RIGHT, people) for people in PEOPLE)
    return Task(
        name="watch", model=load(net, state), loss=loss, metric=accuracy,
        train=Batches(train, BATCH, shuffle=True), eval=Batches(test, BATCH),
        validation=Batches(validation, BATCH),
    )  # fmt: skip


def _windows() -> Arrays:
    """x float32 `[N, 6, WINDOW]`, each axis scaled by all of the left arms; y, side, person uint8 `[N]`."""
    recorded = _recordings()
    left = np.concatenate([x for x, s in zip(recorded["X"], recorded["side"]) if s == LEFT])
    mean, deviation = left.mean(0), left.std(0)
    found: list[tuple[np.ndarray, int, int, int]] = []
    for x, y, side, person in zip(*(recorded[k] for k in ("X", "y", "side", "subject"))):
        scaled = ((x - mean) / deviation).astype(np.float32).T  # [6, samples]
        starts = range(0, scaled.shape[1] - WINDOW + 1, HOP)
        found += [(scaled[:, t : t + WINDOW], int(y), int(side), int(person)) for t in starts]
    x, *others = zip(*found)
    names = ("y", "side", "person")
    return {"x": np.stack(x), **{n: np.array(v, dtype=np.uint8) for n, v in zip(names, others)}}


class _Arrays(pickle.Unpickler):
    """Reads a pickle of numpy's arrays and Python's own containers, and nothing that could run code."""

    ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"),
            ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
        }
    )  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _recordings() -> dict[str, Any]:
    with (asset("watch") / "seglearn/data/watch_dataset.npy").open("rb") as file:
        version = np.lib.format.read_magic(file)
        assert version == (1, 0), version
        np.lib.format.read_array_header_1_0(file)
        return _Arrays(file, encoding="latin1").load().item()
