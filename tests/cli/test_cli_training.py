"""`pockui train`: stopped and resumed, it is one run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from projects import Cli  # pyright: ignore
from safetensors.numpy import load_file

import pockgraph
import pockui


def test_a_resumed_run_is_an_unbroken_run(project: Path, cli: Cli) -> None:
    assert cli("compile", "my_project:task", "--plan", "full", "--target", "onnx", "--out", "out").code == 0
    train = ("train", "out", "my_project:task", "--lr", 0.1, "--threads", 1, "--save")
    assert cli(*train, "whole", "--steps", 11).code == 0
    assert cli(*train, "part", "--steps", 4, "--save-every", 3).code == 0
    assert cli(*train, "part", "--steps", 7, "--resume", "part").code == 0
    whole, part = load_file("whole"), load_file("part")
    assert whole.keys() == part.keys()
    assert all(np.array_equal(a, part[n]) for n, a in whole.items())


def test_a_save_interval_that_cannot_be_read_is_refused(project: Path, cli: Cli) -> None:
    refused = cli("train", "out", "my_project:task", "--save-every", "soon")
    assert refused.code != 0
    assert "neither steps (500) nor seconds (60s)" in refused.err


def test_a_run_that_is_terminated_has_saved(project: Path, cli: Cli) -> None:
    assert cli("compile", "my_project:task", "--plan", "full", "--target", "onnx", "--out", "out").code == 0
    roots = [Path(pockgraph.__file__).parents[1], Path(pockui.__file__).parents[1], project]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roots))}
    args = ["train", "out", "my_project:task", "--steps", 10**8, "--save", "saved", "--save-every", "1"]
    command = [sys.executable, "-c", "from pockui.cli import main; main()", *map(str, args)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as run:
        while not (project / "saved").exists():
            assert run.poll() is None, run.communicate()
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM
    assert load_file("saved")
    assert not list(project.glob(".*partial"))
