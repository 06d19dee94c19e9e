"""What a process takes that trains MobileNetV2 1.0, the paper's preset, at 1×3×224²: in Python and in C++.

    make cpp && python benchmarks/cpp_memory.py --out docs/results/cpp-memory.md

Both programs take the same steps of one artefact, on one thread, and each says its own peak (VmHWM). The
weights are random, which changes no memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import arm
import numpy as np
import openvino

import pockgraph as pg
from pockgraph.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--train", type=Path, default=ROOT / "build" / "cpp" / "train", help="the program in C++"
    )
    parser.add_argument("--out", type=Path, help="a report to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifact, data = made(Path(folder))
        asked = [artifact, "--data", data, "--steps", STEPS, "--every", 10, "--threads", 1, "--json"]
        saved = ["--save", Path(folder) / "checkpoint"]
        rows = [
            row("`python -m pockgraph.runtime`", [sys.executable, "-m", "pockgraph.runtime", *asked, *saved]),
            row("`train`", [options.train, *asked, *saved]),
            row("`train --low-memory`", [options.train, *asked, *saved, "--low-memory"]),
        ]
    text = report(rows)
    print(text)
    if options.out:
        write_atomically(options.out, text.encode())


def made(folder: Path) -> tuple[Path, Path]:
    """An artefact, and its data as a file."""
    task = arm.mobilenet_v2(px=224)
    graph = pg.build(task, pg.SGD(lr=1e-3, momentum=0.9))
    artifact = folder / "out"
    pg.compile(graph, pg.Plan.preset(graph), target="openvino", out=artifact)
    batches = [{n: np.asarray(a) for n, a in batch.items()} for batch in task.train]
    np.savez(folder / "data.npz", **{n: np.concatenate([b[n] for b in batches]) for n in batches[0]})
    return artifact, folder / "data.npz"


def row(name: str, command: list[object]) -> str:
    done = subprocess.run(
        [str(c) for c in command], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    *_, last, end = (json.loads(line) for line in done.stdout.splitlines())
    return f"| {name} | {end['peak_rss_bytes'] / 1e6:.0f} MB | {last['loss']:.6f} |"


def report(rows: list[str]) -> str:
    version, machine = openvino.__version__.split("-")[0], platform.machine()
    return "\n".join(
        [
            "# Memory of a process that trains, in Python and in C++",
            "",
            "`make cpp && python benchmarks/cpp_memory.py --out docs/results/cpp-memory.md`",
            "",
            "MobileNetV2 1.0 at 1×3×224², the paper's preset, SGD with momentum, one thread, "
            f"{STEPS} steps and a checkpoint;",
            f"OpenVINO {version} on {machine}. The peak is the most that the process ever held, "
            "compiling the step included.",
            "",
            "| program | peak | loss, mean of the last ten steps |",
            "| --- | --: | --: |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
