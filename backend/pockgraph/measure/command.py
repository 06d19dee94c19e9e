"""`python -m pockgraph.measure`: measure an artefact on the machine that it is to train on.

With `--wait` it is a contender for `measure_interleaved`. Imports no torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import PockError
from .contender import Step, serve_steps
from .figures import figures_to_json
from .interleaved import measure_step

LEARNING_RATE = 1e-4  # of measured steps: the work is the same at any rate, and this one cannot diverge


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one artefact; with `--wait`, be a contender for `measure_interleaved`."""
    p = argparse.ArgumentParser(
        prog="python -m pockgraph.measure", description="Time and memory of an artefact's training step."
    )
    p.add_argument("artifact", type=Path)
    p.add_argument("--batch", type=Path, required=True, help="npz with one batch")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--threads", type=int)
    p.add_argument("--wait", action="store_true", help="take steps when told to on standard input")
    p.add_argument("--forward", action="store_true", help="with --wait: evaluate instead of training")
    options = p.parse_args(argv)
    try:
        with np.load(options.batch, allow_pickle=False) as file:
            batch = dict(file)
        if options.wait:
            return _serve_artifact(options.artifact, batch, options.threads, options.forward)
        figures = measure_step(options.artifact, batch, steps=options.steps, threads=options.threads)
    except (PockError, OSError, ValueError) as e:
        print(f"error: {e}".replace("\n", " "), file=sys.stderr)
        return 2
    print(json.dumps(figures_to_json(figures)))
    return 0


def _serve_artifact(artifact: Path, batch: dict[str, np.ndarray], threads: int | None, forward: bool) -> int:
    from ..runtime import Trainer
    from ..runtime.manifest import read_manifest
    from ..runtime.runner import import_runtime

    # The target's libraries belong to what is imported, not to what is loaded.
    import_runtime(artifact, read_manifest(artifact).target)

    def load() -> Step:
        trainer = Trainer.load(artifact, threads=threads)
        if forward:
            return lambda: trainer.evaluate([batch])
        return lambda: trainer.step(batch, LEARNING_RATE)

    serve_steps(load)
    return 0
