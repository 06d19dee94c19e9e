"""An artefact made in a fresh process, with what that took: time, memory and room on disk.

`python -m pockui.bench.prepare` prints it as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pockgraph.errors import PockError
from pockgraph.measure import MeasureError

PLANS = ("head", "preset", "full")


@dataclass(frozen=True)
class Made:
    """What it took to make an artefact.

    Attributes:
        build_ms: from the task to the whole graph. compile_ms: to the artefact, its comparison with PyTorch
            included. ready_ms: from the task to a step that is ready to run.
        peak_bytes: the most that the process held, its libraries included; None where the system does not
            say.
        disk_bytes: of the artefact's files.
    """

    build_ms: float
    compile_ms: float
    ready_ms: float
    peak_bytes: int | None
    disk_bytes: int


def make(
    reference: str,
    options: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    plan: str,
    target: str,
    out: Path,
) -> Made | MeasureError:
    """Make an artefact in a process of its own; an error holds that process's last words.

    Args:
        plan: one of `PLANS`.
        out: where the artefact goes.
    """
    arguments = json.dumps([reference, dict(options), dict(optimizer), plan, target, str(out)])
    command = [sys.executable, "-m", "pockui.bench.prepare", arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.strip()]
        return MeasureError(words[-1].strip() if words else f"exit status {done.returncode}")
    return Made(**json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    p = argparse.ArgumentParser(prog="python -m pockui.bench.prepare")
    p.add_argument("arguments", type=json.loads)
    reference, options, optimizer, plan, target, out = p.parse_args().arguments
    try:
        made = _make_here(reference, options, optimizer, plan, target, Path(out))
    except (PockError, OSError) as e:
        print(f"error: {e}".replace("\n", " "), file=sys.stderr)
        return 2
    print(json.dumps(made))
    return 0


def _make_here(
    reference: str,
    options: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    plan: str,
    target: str,
    out: Path,
) -> dict[str, Any]:
    import pockgraph as pg
    from pockgraph.optimizer import optimizer_from_dict
    from pockgraph.runtime.process_memory import peak_resident_bytes
    from pockgraph.runtime.runner import import_runtime

    from ..project import load_task

    task = load_task(reference, **options)
    import_runtime(out, target)  # libraries are no part of the times
    start = time.perf_counter()
    graph = pg.build(task, optimizer_from_dict(dict(optimizer)))
    built = time.perf_counter()
    artifact = pg.compile(graph, getattr(pg.Plan, plan)(graph), target=target, out=out)
    compiled, peak_bytes = time.perf_counter(), peak_resident_bytes()
    artifact.trainer()
    ready = time.perf_counter()
    return {
        "build_ms": (built - start) * 1e3, "compile_ms": (compiled - built) * 1e3,
        "ready_ms": (ready - start) * 1e3, "peak_bytes": peak_bytes,
        "disk_bytes": sum(f.stat().st_size for f in out.rglob("*") if f.is_file()),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
