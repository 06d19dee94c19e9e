"""What a busy machine does to the measured time of a step, and what is left of that in the times that count.

    python benchmarks/step_noise.py WORK [--target onnx] [--rounds 12]

EfficientNet-Lite0, the preset's tensors, batches of 8 images of 128². The step is measured again and again,
each time in a process of its own, in turn beside no other process and beside some that never rest. Times are
told on the wall's clock, without waiting for other processes (what studies use), and those divided by the
reference kernel's around each block.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "backend"), str(ROOT)]

import pockgraph as pg  # noqa: E402
from pockgraph.machine import usable_cores  # noqa: E402
from pockgraph.measure import MeasureError, artifact_command, batch_file  # noqa: E402
from pockgraph.measure.device_profile import Block  # noqa: E402
from pockgraph.measure.interleaved import measure_alone  # noqa: E402
from pockgraph.measure.kit import BLOCK_S  # noqa: E402

BUSY = 4  # other processes
CLOCKS: dict[str, Callable[[Block], float]] = {
    "wall clock, ms": lambda b: b.time.median_ms,
    "without waiting, ms": lambda b: b.step_ms,
    "without waiting, per reference": lambda b: b.step_ms / b.reference.ms,
}


def measure(work: Path, target: str, rounds: int) -> dict[tuple[int, int], list[Block]]:
    """(threads, other processes) -> a block a round."""
    from pockui.demo import vision

    artifact = work / f"preset-{target}"
    graph = pg.build(vision.task(8, 128), pg.SGD(lr=1e-2, momentum=0.9))
    if not artifact.is_dir():
        pg.compile(graph, pg.Plan.preset(graph), target=target, out=artifact, parity=False)
    found: dict[tuple[int, int], list[Block]] = {}
    with batch_file(graph.task.example) as batch:
        for n in range(rounds):
            for threads in (1, usable_cores()):
                busy = BUSY if n % 2 else 0
                said = f"round {n + 1} of {rounds}, {threads} threads, {busy} other processes"
                print(said, file=sys.stderr, flush=True)
                others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
                try:
                    figures = measure_alone(artifact_command(artifact, batch, threads), BLOCK_S)
                finally:
                    for other in others:
                        other.kill()
                        other.wait()
                if isinstance(figures, MeasureError):
                    raise figures
                found.setdefault((threads, busy), []).append(Block.of(0, figures))
    return found


def table(found: dict[tuple[int, int], list[Block]]) -> str:
    """Medians and ranges as Markdown."""
    lines = ["| threads | other processes | times | median | least | most |", "|--:|--:|---|--:|--:|--:|"]
    for (threads, busy), blocks in sorted(found.items()):
        for name, clock in CLOCKS.items():
            values = [clock(block) for block in blocks]
            shown = " | ".join(f"{v:.1f}" for v in (np.median(values), min(values), max(values)))
            lines.append(f"| {threads} | {busy} | {name} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    p = argparse.ArgumentParser(description="What a busy machine does to the measured time of a step.")
    p.add_argument("work", type=Path)
    p.add_argument("--target", default="openvino")
    p.add_argument("--rounds", type=int, default=12)
    options = p.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    print(table(measure(options.work, options.target, options.rounds)))


if __name__ == "__main__":
    main()
