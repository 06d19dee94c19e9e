"""The ExecuTorch runner, and what its files may hold."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("executorch", reason="executorch is not installed; `make test-executorch` installs it")

from runner_contract import RunnerContract, same
from tiny_task import Compile, batches

from pockgraph.errors import ArtifactError
from pockgraph.runtime import Trainer
from pockgraph.targets.executorch.program_file import called, check_program


class TestExecuTorch(RunnerContract):
    target = "executorch"


@pytest.mark.parametrize("other", ["openvino", "onnx", "torch"])
def test_training_goes_on_elsewhere_and_comes_back(compiled: Compile, tmp_path: Path, other: str) -> None:
    """A step here, one on another target from the checkpoint, one here again: as three steps here."""
    data = batches(3)
    alone = Trainer.load(compiled("executorch", optimizer="adamw").path)
    whole = [alone.step(b).loss for b in data]
    folders = [compiled(t, optimizer="adamw").path for t in ("executorch", other, "executorch")]
    losses = []
    for i, folder in enumerate(folders):
        trainer = Trainer.load(folder)
        if i:
            trainer.load_checkpoint(tmp_path / "checkpoint")
        losses.append(trainer.step(data[i]).loss)
        trainer.save(tmp_path / "checkpoint")
    np.testing.assert_allclose(losses, whole, rtol=1e-5)
    for name, tensor in trainer.state().items():
        np.testing.assert_allclose(tensor, alone.state()[name], rtol=1e-4, atol=1e-6)


def test_other_devices_are_refused(compiled: Compile) -> None:
    with pytest.raises(ArtifactError, match=r"no device 'GPU' here.*run on 'CPU'"):
        Trainer.load(compiled("executorch").path, device="GPU")
    assert Trainer.load(compiled("executorch").path, device="cpu").device == "cpu"


def test_results_do_not_depend_on_threads(compiled: Compile) -> None:
    states = []
    for threads in (1, 2, 1):
        trainer = Trainer.load(compiled("executorch").path, threads=threads)
        for batch in batches(2):
            trainer.step(batch)
        states.append(trainer.state())
    assert same(states[0], states[1])
    assert same(states[0], states[2])


def test_a_program_calls_kernels_and_no_backend(compiled: Compile) -> None:
    for stem in ("train", "eval"):
        operators, backends = called((compiled("executorch").path / f"{stem}.pte").read_bytes())
        assert "aten::convolution.out" in operators
        assert not backends


def test_a_file_that_calls_something_else_is_not_loaded(copied: Callable[..., Path]) -> None:
    path = copied("executorch") / "train.pte"
    content = path.read_bytes()
    assert b"aten::convolution\0" in content
    path.write_bytes(content.replace(b"aten::convolution\0", b"evil::convolution\0"))
    with pytest.raises(ArtifactError, match=r"train\.pte calls 'evil::convolution\.out'"):
        check_program(path)


def test_damaged_programs_are_refused_before_executorch_sees_them(copied: Callable[..., Path]) -> None:
    """Whatever a flipped byte makes of the parts that are looked at, it is our error or none."""
    path = copied("executorch") / "train.pte"
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for content in (b"", b"PK" + bytes(100), good[:100], bytes(4) + good[4:]):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"train\.pte (is damaged|calls)"):
            check_program(path)
    for at in rng.integers(0, len(good), 300):
        flipped = bytearray(good)
        flipped[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            check_program(path)
        except ArtifactError:
            continue


WITHOUT = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "executorch" else real(name, *a)
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "executorch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from pockgraph.runtime import Trainer
Trainer.load(sys.argv[1])
"""


def test_without_the_package_loading_says_what_to_install(compiled: Compile) -> None:
    folder = compiled("executorch").path
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(folder)], capture_output=True, text=True, check=False
    )
    assert "ArtifactError" in done.stderr
    assert "pip install 'pockui[executorch]'" in done.stderr
