"""Long runs: memory flat over 10,000 steps, nothing left of a Trainer that was let go.

Each target runs in a process of its own. Resident memory is the kernel's figure, sampled every hundred steps;
*flat* compares the median of its last tenth with the median after the first tenth.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subjects import TARGETS, compile_artifact

import psutil
import tiny_task

from pockgraph.runtime import Trainer

FLAT_RATIO = 0.02
# Runtimes keep pools; what a load leaves behind after the first ones must not add up.
WARM_LOADS = 10


@dataclass(frozen=True)
class Outcome:
    """One target's long run: figures, and what is wrong with them."""

    target: str
    steps: int
    first_rss_bytes: int
    last_rss_bytes: int
    loads: int
    load_rss_bytes: tuple[int, int]
    threads: tuple[int, int]
    descriptors: tuple[int, int]
    faults: tuple[str, ...] = ()


def run(steps: int, loads: int, work: Path) -> list[Outcome]:
    """Every target."""
    outcomes = []
    for target in TARGETS:
        artifact = work / f"endurance-{target}"
        compile_artifact(target, artifact)
        command = [sys.executable, __file__, target, str(artifact), str(steps), str(loads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{target}: {done.stderr[-1000:]}")
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        outcome = Outcome(**{k: tuple(v) if isinstance(v, list) else v for k, v in figures.items()})
        print(f"{target}: {steps} steps, {loads} loads, faults {list(outcome.faults)}", flush=True)
        outcomes.append(outcome)
    return outcomes


def _measure(target: str, artifact: str, steps: int, loads: int) -> Outcome:
    process = psutil.Process()
    trainer = Trainer.load(artifact)
    batches = tiny_task.batches(5)
    samples = []
    for step in range(steps):
        trainer.step(batches[step % len(batches)])
        if step % 1000 == 999:
            trainer.evaluate(batches[:1])
            trainer.state()
        if step % 100 == 99:
            samples.append(process.memory_info().rss)
    tenth = max(1, len(samples) // 10)
    first = int(statistics.median(samples[tenth : 2 * tenth]))
    last = int(statistics.median(samples[-tenth:]))
    del trainer

    def load() -> None:
        Trainer.load(artifact).step(batches[0])
        gc.collect()

    for _ in range(WARM_LOADS):
        load()
    before = process.memory_info().rss, threading.active_count() + process.num_threads(), process.num_fds()
    for _ in range(loads):
        load()
    after = process.memory_info().rss, threading.active_count() + process.num_threads(), process.num_fds()
    faults = []
    if abs(last - first) > FLAT_RATIO * first:
        faults.append(f"memory moved by {(last - first) / first:+.1%} over the steps")
    if after[0] - before[0] > FLAT_RATIO * before[0]:
        faults.append(f"memory grew by {(after[0] - before[0]) / before[0]:+.1%} over {loads} loads")
    if after[1] > before[1]:
        faults.append(f"threads grew from {before[1]} to {after[1]} over {loads} loads")
    if after[2] > before[2]:
        faults.append(f"descriptors grew from {before[2]} to {after[2]} over {loads} loads")
    pairs = list(zip(before, after))
    return Outcome(target, steps, first, last, loads, pairs[0], pairs[1], pairs[2], tuple(faults))


if __name__ == "__main__":
    found = _measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    print(json.dumps(vars(found)))
