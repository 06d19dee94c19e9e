"""The ONNX runner, and that it needs neither torch nor OpenVINO nor the onnx package."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from runner_contract import RunnerContract, same
from tiny_task import Compile, batches

from pockgraph.errors import ArtifactError
from pockgraph.runtime import Trainer

ALONE = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "openvino", "onnx"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())

import numpy as np
from pockgraph.runtime import Trainer
folder, data, out = sys.argv[1:]
flat = np.load(data)
batches = [{k: flat[f"{k}{i}"] for k in ("x", "y")} for i in range(3)]
trainer = Trainer.load(folder, threads=1)
losses = [trainer.step(b).loss for b in batches[:2]]
trainer.save(out)
losses.append(trainer.step(batches[2]).loss)
resumed = Trainer.load(folder, threads=1)
resumed.load_checkpoint(out)
losses.append(resumed.step(batches[2]).loss)
print(*losses, resumed.evaluate(batches).metric)
assert not {"torch", "openvino", "onnx"} & set(sys.modules)
"""


class TestONNX(RunnerContract):
    target = "onnx"


def test_training_needs_onnxruntime_alone(compiled: Compile, tmp_path: Path) -> None:
    """Trained, saved, resumed and evaluated where nothing else is installed."""
    artifact, data = compiled("onnx"), batches(3)
    np.savez(tmp_path / "data.npz", **{f"{k}{i}": v for i, b in enumerate(data) for k, v in b.items()})
    args = [sys.executable, "-c", ALONE, artifact.path, tmp_path / "data.npz", tmp_path / "saved"]
    done = subprocess.run([*map(str, args)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    trainer = Trainer.load(artifact.path, threads=1)
    losses = [trainer.step(b).loss for b in data]
    assert done.stdout.split() == [*map(str, [*losses, losses[-1]]), str(trainer.evaluate(data).metric)]


def test_a_step_leaves_the_state_before_it_alone(compiled: Compile) -> None:
    """A checkpoint written between two steps is of one moment: the two sets of state are apart."""
    trainer = Trainer.load(compiled("onnx", optimizer="adamw").path, threads=1)
    states = []
    for batch in batches(4):
        states.append(trainer._runner.read_state())
        trainer.step(batch)
    again = Trainer.load(compiled("onnx", optimizer="adamw").path, threads=1)
    for batch, state in zip(batches(4), states):
        assert same(again._runner.read_state(), state)
        again.step(batch)


def test_state_that_is_set_is_the_next_steps(compiled: Compile) -> None:
    """Whichever of the two sets is current."""
    trainer = Trainer.load(compiled("onnx").path, threads=1)
    first = [trainer.step(b).loss for b in batches(3)]
    initial = Trainer.load(compiled("onnx").path, threads=1)._runner.read_state()
    trainer._runner.write_state(initial)
    assert [trainer.step(b).loss for b in batches(3)] == first


def test_a_model_that_the_runtime_cannot_load(copied: Callable[..., Path]) -> None:
    folder = copied("onnx")
    path = folder / "train.onnx"
    path.write_bytes(b"\x00" * path.stat().st_size)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["train.onnx"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"train\.onnx is no model"):
        Trainer.load(folder)


def test_the_number_of_threads_changes_no_loss_by_more_than_rounding(compiled: Compile) -> None:
    losses = []
    for threads in (1, 2):
        trainer = Trainer.load(compiled("onnx").path, threads=threads)
        losses.append([trainer.step(b).loss for b in batches(3)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
