"""What the campaign kills: each command prints `ready` when its work begins.

children.py train ARTEFACT DATA STEPS CHECKPOINT [--one]
children.py analyse STUDY
children.py compile TARGET FOLDER
children.py plans FILE
children.py study STUDY
"""

from __future__ import annotations

import sys
from pathlib import Path

from subjects import compile_artifact  # first: it sets the import paths

import numpy as np
import shapes_task
import tiny_task

import pockgraph as pg
from pockgraph.runtime import Trainer
from pockgraph.study import Run

PLANS = 150
RUNS = 60


def train(artifact: str, data: str, steps: str, checkpoint: str, *options: str) -> None:
    """Train with a checkpoint after every step: each to its own file, or all to one, which is resumed."""
    arrays = dict(np.load(data).items())
    trainer = Trainer.load(artifact)
    path = Path(checkpoint)
    one = "--one" in options
    if one and path.exists():
        trainer.load_checkpoint(path)
    print("ready", flush=True)
    while trainer.steps < int(steps):
        rows = (np.arange(tiny_task.ROWS) + trainer.steps * tiny_task.ROWS) % tiny_task.SAMPLES
        trainer.step({k: v[rows] for k, v in arrays.items()})
        trainer.save(path if one else path.with_name(f"{path.name}-{trainer.steps}"))


def analyse(study: str) -> None:
    """A short analysis, resumed where it was stopped."""
    with pg.Study(study, shapes_task.make_shapes(), shapes_task.OPTIMIZER) as s:
        print("ready", flush=True)
        s.analyze(**shapes_task.QUICK)  # pyright: ignore


def compile(target: str, folder: str) -> None:
    """Compile over what is there."""
    tiny_task.make_graph("accumulate")
    print("ready", flush=True)
    compile_artifact(target, Path(folder))


def plans(path: str) -> None:
    """Save two plans in turn to one file."""
    both = [tiny_task.make_plan("sparse"), tiny_task.make_plan("head")]
    both[0].save(path)
    print("ready", flush=True)
    for i in range(PLANS):
        both[i % 2].save(path)


def study(path: str) -> None:
    """Save plans and add runs."""
    with pg.Study(path, tiny_task.make_task()) as s:
        plan = tiny_task.make_plan()
        print("ready", flush=True)
        for i in range(RUNS):
            s.save_plan(f"plan {i % 7}", plan)
            s.add_run(Run(plan, name=f"run {i}", steps=500, losses=tuple(float(j) for j in range(500))))


if __name__ == "__main__":
    command = {"train": train, "analyse": analyse, "compile": compile, "plans": plans, "study": study}
    command[sys.argv[1]](*sys.argv[2:])
