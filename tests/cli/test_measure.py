"""Measuring in fresh processes: a step of known length and memory is measured as such."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from projects import Cli  # pyright: ignore

from pockgraph.measure import (
    MeasureError,
    Memory,
    StepFigures,
    StepTime,
    figures_to_json,
    measure_interleaved,
    measure_step,
)

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux only")
SLEEPER = """
import sys, time
import numpy as np
from pockgraph.measure import serve_steps
ms, held_mb, used_mb = map(float, sys.argv[1:])

def load():
    held = np.ones(int(held_mb * 1e6), np.uint8)
    def step():
        used = np.ones(int(used_mb * 1e6), np.uint8)
        time.sleep(ms / 1e3)
        return len(held) + len(used)
    return step

print("noise on standard output")
serve_steps(load)
"""


def sleeper(ms: float, held_mb: float = 0, used_mb: float = 0) -> tuple[str, ...]:
    return (sys.executable, "-c", SLEEPER, str(ms), str(held_mb), str(used_mb))


def figures(commands: dict[str, tuple[str, ...]], **options: int) -> dict[str, StepFigures]:
    found = measure_interleaved(commands, **options)  # pyright: ignore
    assert all(isinstance(f, StepFigures) for f in found.values()), found
    return found  # pyright: ignore


def test_times_are_medians_of_the_asked_steps() -> None:
    found = figures({"slow": sleeper(40), "fast": sleeper(10)}, blocks=3, steps=4, warmup=1)
    assert list(found) == ["slow", "fast"]
    assert found["slow"].time.steps == found["fast"].time.steps == 12
    assert found["slow"].undisturbed.median_ms == pytest.approx(40, rel=0.5)
    assert found["fast"].undisturbed.median_ms < found["slow"].undisturbed.median_ms
    assert found["fast"].time.q1_ms <= found["fast"].time.median_ms <= found["fast"].time.q3_ms


@LINUX
def test_memory_of_libraries_model_and_training_is_measured_apart() -> None:
    memory = figures({"a": sleeper(1, held_mb=60, used_mb=90)}, blocks=1, steps=2)["a"].memory
    assert memory is not None
    assert memory.over_loaded_bytes == pytest.approx(90e6, rel=0.1)
    assert memory.over_imported_bytes == pytest.approx(150e6, rel=0.1)
    assert memory.whole_peak_bytes >= memory.peak_bytes


@LINUX
def test_what_loading_needed_for_a_moment_is_not_training() -> None:
    program = SLEEPER.replace("def load():", "def load():\n    np.ones(200_000_000, np.uint8)")
    command = (sys.executable, "-c", program, "1", "10", "20")
    memory = figures({"a": command}, blocks=1, steps=2)["a"].memory
    assert memory is not None
    assert memory.over_loaded_bytes == pytest.approx(20e6, rel=0.2)
    assert memory.whole_peak_bytes > memory.peak_bytes + 100e6


def test_a_contender_that_fails_is_a_result() -> None:
    broken = (sys.executable, "-c", "raise SystemExit('it has no compiler')")
    dies = (sys.executable, "-c", SLEEPER.replace("time.sleep(ms / 1e3)", "sys.exit('gone')"), "1", "0", "0")
    found = measure_interleaved({"broken": broken, "dies": dies, "fine": sleeper(1)}, blocks=2, steps=2)
    assert str(found["broken"]) == "it has no compiler"
    assert isinstance(found["dies"], MeasureError)
    assert isinstance(found["fine"], StepFigures)


def test_progress_ends_at_the_total() -> None:
    seen: list[tuple[int, int, str]] = []
    measure_interleaved({"a": sleeper(1)}, blocks=2, steps=1, progress=lambda *event: seen.append(event))
    assert seen[0][0] == 0
    assert seen[-1][:2] == (3, 3)


def test_json_has_units() -> None:
    memory = Memory(100, 150, 250, 300)
    flat = figures_to_json(StepFigures(StepTime.of([1.0, 2.0, 3.0]), memory, 5.0, 6.0))
    assert flat["step_ms"] == 2
    assert flat["over_loaded_bytes"] == 100
    assert flat["over_imported_bytes"] == 150
    assert flat["whole_peak_bytes"] == 300
    assert figures_to_json(StepFigures(StepTime.of([1.0]), None, 5.0, 6.0))["over_loaded_bytes"] is None


def test_artefacts_are_measured_without_torch(project: Path, cli: Cli) -> None:
    assert cli("compile", "my_project:task", "--plan", "full", "--out", "out").code == 0
    (project / "torch.py").write_text("raise ImportError('no torch on a device')\n")

    import my_project  # pyright: ignore

    found = measure_step("out", my_project.samples(8, 5), steps=3)
    assert found.time.median_ms > 0
    wrong = {"x": my_project.samples(4, 5)["x"], "y": my_project.samples(4, 5)["y"]}
    with pytest.raises(MeasureError, match="does not fit"):
        measure_step("out", wrong)
    os.remove("torch.py")


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_artefacts_of_the_other_targets_are_measured(project: Path, cli: Cli, target: str) -> None:
    arguments = ("--plan", "head", "--target", target, "--out", "out")
    assert cli("compile", "my_project:task", *arguments).code == 0

    import my_project  # pyright: ignore

    assert measure_step("out", my_project.samples(8, 5), steps=3).time.median_ms > 0
