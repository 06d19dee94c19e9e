"""The OpenVINO runner, and that it needs neither torch nor a network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from runner_contract import RunnerContract
from tiny_task import Compile, batches

from pockgraph.runtime import Trainer

WITHOUT_TORCH = """
import importlib.abc, socket, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "openvino_telemetry"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())

def refuse(*args, **kwargs):
    raise AssertionError("a connection was opened")

socket.socket.connect = socket.getaddrinfo = refuse
"""


def run_python(code: str, *args: str | Path, home: Path) -> str:
    env = {"PATH": "", "HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestOpenVINO(RunnerContract):
    target = "openvino"


def test_training_needs_no_torch(compiled: Compile, tmp_path: Path) -> None:
    artifact = compiled("openvino", predict="named")
    np.savez(tmp_path / "batch.npz", **batches(1)[0])
    code = """
import numpy as np
from pockgraph.runtime import Predictor, Trainer
folder, batch, out = sys.argv[1:]
trainer = Trainer.load(folder, threads=1)
batch = dict(np.load(batch))
print(trainer.step(batch).loss, trainer.evaluate([batch]).metric)
trainer.save(out)
print(Predictor.load(folder, out, threads=1).predict({"image": batch["x"]})["logits"].sum())
assert "torch" not in sys.modules
"""
    text = run_python(
        WITHOUT_TORCH + code, artifact.path, tmp_path / "batch.npz", tmp_path / "saved", home=tmp_path
    )
    trainer = Trainer.load(artifact.path, threads=1)
    loss = trainer.step(batches(1)[0]).loss
    found = trainer.predict({"image": batches(1)[0]["x"]})
    assert isinstance(found, dict)
    assert text.split() == [
        str(v) for v in (loss, trainer.evaluate(batches(1)).metric, found["logits"].sum())
    ]
    trainer.load_checkpoint(tmp_path / "saved")


def test_openvinos_telemetry_stays_off(compiled: Compile, tmp_path: Path) -> None:
    code = """
import socket, sys

def refuse(*args, **kwargs):
    raise AssertionError("a connection was opened")

socket.socket.connect = socket.getaddrinfo = refuse
from pockgraph.runtime import Trainer
Trainer.load(sys.argv[1], threads=1)
assert not [m for m in sys.modules if m.startswith(("openvino_telemetry", "openvino.tools"))]
import openvino
assert callable(openvino.convert_model)
assert not [m for m in sys.modules if m.startswith("openvino_telemetry.")]
assert not hasattr(openvino, "no_such_name")
"""
    run_python(code, compiled("openvino").path, home=tmp_path)
    assert list(tmp_path.iterdir()) == []  # where telemetry keeps its client identifier


def test_the_state_is_f32_whatever_the_machine_prefers(compiled: Compile) -> None:
    trainer = Trainer.load(compiled("openvino").path)
    request = trainer._runner._train  # pyright: ignore
    assert request._compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert {str(s.state.element_type.to_dtype()) for s in request.states.values()} == {"float32"}
