"""The same seed on the same target gives the same bits, twice; a checkpoint moves between targets.

The moves happen in the middle of an accumulation cycle, with averages kept, and end where a run that never
moved ends, within the tolerance of the tests.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from subjects import TARGETS, compile_artifact, state_digest

import numpy as np
import tiny_task

from pockgraph.runtime import Trainer

STEPS = 20  # no multiple of the optimizer's three micro-batches
# Three float32 programs that agree to rounding, relative to a tensor's largest element.
MOVED_RATIO = 1e-4


@dataclass(frozen=True)
class Outcome:
    """Digests of two runs a target, and how far a checkpoint's journey ends from an unmoved run."""

    target: str
    digests: tuple[str, str]
    journey: str
    deviation_ratio: float
    faults: tuple[str, ...]


def run(work: Path) -> list[Outcome]:
    """Every target twice, and a journey over all of them that begins at each."""
    artifacts = {t: work / f"determinism-{t}" for t in TARGETS}
    for target, artifact in artifacts.items():
        compile_artifact(target, artifact)
    outcomes = []
    for number, target in enumerate(TARGETS):
        digests = tuple(_digest_in_a_process(artifacts[target]) for _ in range(2))
        route = [*TARGETS[number:], *TARGETS[:number], target]
        deviation = _journey([artifacts[t] for t in route], work / "moving.safetensors")
        faults = []
        if len(set(digests)) > 1:
            faults.append("two runs differ in bits")
        if not deviation <= MOVED_RATIO:
            faults.append(f"the journey ends {deviation:.2g} away")
        print(f"{target}: {' -> '.join(route)}: {deviation:.1e}, faults {faults}", flush=True)
        outcomes.append(Outcome(target, digests, " → ".join(route), deviation, tuple(faults)))  # pyright: ignore
    return outcomes


def _digest_in_a_process(artifact: Path) -> str:
    command = [sys.executable, __file__, str(artifact)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _train(trainer: Trainer, steps: int) -> None:
    batches = tiny_task.batches(7)
    for _ in range(steps):
        trainer.step(batches[trainer.steps % len(batches)])


def _journey(route: list[Path], checkpoint: Path) -> float:
    stay = Trainer.load(route[0])
    _train(stay, STEPS * len(route))
    for previous, artifact in itertools.pairwise([None, *route]):
        trainer = Trainer.load(artifact)
        if previous is not None:
            trainer.load_checkpoint(checkpoint)
        _train(trainer, STEPS)
        trainer.save(checkpoint)
    return max(
        float(np.abs(moved - stay.state(averaged=a)[fqn]).max() / np.abs(moved).max())
        for a in (False, True)
        for fqn, moved in trainer.state(averaged=a).items()
    )


if __name__ == "__main__":
    only = Trainer.load(sys.argv[1], seed=3)
    _train(only, 50)
    print(json.dumps(state_digest(only.state())))
