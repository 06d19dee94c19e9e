"""What `import pockgraph.runtime` costs and brings along."""

from __future__ import annotations

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
