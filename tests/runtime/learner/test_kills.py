"""A learner that is killed loses no accepted sample, leaves no half generation, and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from learning import opened, stream
from tiny_task import Compile

import pockgraph
from pockgraph.runtime import Predictor

CHILD = Path(__file__).parent / "killed_child.py"
FEW = [("COMMIT", 40), ("replace", 1), ("INSERT INTO generations", 2)]
MORE = [
    *[("COMMIT", n) for n in (1, 2, 3, 30, 53, 54, 55, 60, 61, 70, 90)],
    *[("INSERT INTO arrays", n) for n in (1, 2, 100)],
    *[("INSERT INTO events", n) for n in (1, 52, 53, 54)],
    *[("replace", n) for n in (2, 3, 4, 5)],
    *[("fsync", n) for n in (1, 2, 3, 4, 8)],
    *[("unlink", n) for n in (1, 2)],
    ("INSERT INTO generations", 1),
    ("DELETE FROM generations", 4),
    ("UPDATE samples SET scored", 3),
]


def moments() -> list:
    return [*FEW, *(pytest.param(*moment, marks=pytest.mark.slow) for moment in MORE)]


@pytest.mark.parametrize(("what", "number"), moments())
def test_a_kill_loses_nothing_that_was_accepted(
    compiled: Compile, tmp_path: Path, what: str, number: int
) -> None:
    artifact, folder = compiled("onnx", predict="one").path, tmp_path / "learner"
    done = subprocess.run(
        [sys.executable, CHILD, artifact, folder, what, str(number)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(pockgraph.__file__).parents[1])},
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL
    keys = done.stdout.decode().split()
    given = dict(zip(keys, stream(80)))
    with opened(artifact, folder) as learner:
        rows = {r["key"]: r for r in learner._database.read("SELECT * FROM samples")}
        assert set(rows) >= set(keys)
        assert len(rows) <= len(keys) + 1  # the one that was being accepted
        accepted = {e.key for e in learner.journal(10_000) if e.kind == "accepted"}
        assert accepted == set(rows)
        for key, sample in given.items():
            (kept,) = learner._replay.load([rows[key]["id"]]).values()
            assert all(np.array_equal(kept[n], a) and kept[n].dtype == a.dtype for n, a in sample.items())
        names = {p.name for p in (folder / "generations").iterdir()}
        generations = learner.generations()
        assert names == {g.path.name for g in generations if g.path}
        x = {"x": np.stack([s["x"] for s in stream(3, seed=9)])}
        for generation in generations:
            whole = Predictor.load(artifact, generation.path, threads=1).predict(x)
        assert np.array_equal(np.asarray(learner.predict(x)), np.asarray(whole))
        for sample in stream(80):
            learner.add(sample)
        assert learner.learn()[0] in ("promoted", "rolled back")
