"""What `import pockgraph.runtime` costs and brings along."""

from __future__ import annotations

import os
import subprocess
import sys


def test_importing_the_runtime_is_light() -> None:
    code = """
import sys, time
start = time.perf_counter()
import pockgraph.runtime
print(time.perf_counter() - start)
heavy = {"torch", "openvino", "pandas", "panel", "scipy", "onnx"} & set(sys.modules)
assert not heavy, heavy
"""
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(times) < 1.0


def test_onnxruntime_leaves_no_number_of_this_machine_and_reports_nothing(tmp_path, compiled) -> None:
    """Its own builds keep files in both folders from the import on, unless they are told not to."""
    code = "import sys; from pockgraph.runtime import Trainer; Trainer.load(sys.argv[1]).close()"
    subprocess.run(
        [sys.executable, "-c", code, str(compiled("onnx").path)],
        env={k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY" and "XDG" not in k}
        | {"TMPDIR": str(tmp_path), "HOME": str(tmp_path)},
        check=True,
    )
    assert not list(tmp_path.iterdir())


def test_an_onnxruntime_that_was_imported_before_is_told_to_report_nothing() -> None:
    code = """
import onnxruntime
told = []
onnxruntime.disable_telemetry_events = lambda: told.append(1)
import pockgraph.runtime.onnx
assert told
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_runtime_is_named(tmp_path, compiled) -> None:
    code = """
import sys
sys.modules["openvino"] = None
from pockgraph.runtime import ArtifactError, Trainer
try:
    Trainer.load(sys.argv[1])
except ArtifactError as e:
    print(e)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(compiled("openvino").path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "needs the Python package 'openvino'. Install it" in done.stdout
