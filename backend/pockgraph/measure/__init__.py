"""Time and memory of a training step, each measured in a fresh process of its own.

Not here: what a model of time or memory makes of the figures (`profile/`), and torch: artefacts are measured
on a device without it.

A contender is a command line. Its process imports what it needs, loads the model, takes a few steps,
and then waits to be asked for blocks of steps. The parent asks all contenders in turn, so that whatever
else the machine does hits them alike, and no two of them ever compute at once.

What moves a noisy machine is told apart from the plan: time that a step spent waiting while other processes
had the processors is taken out (`processor_time`), and a reference kernel that is timed between the blocks
says which state the machine is in (`reference`).

Memory is what the operating system says (resident set size, Linux only), at four moments:

    imported -> loaded -> highest while training; and highest of all, loading included.

`python -m pockgraph.measure out/ --batch batch.npz` prints one artefact's figures.

Names are imported when first used: a contender in another runtime's environment (`contender.py`) needs the
standard library alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "LEARNING_RATE": ".contender",
    "MeasureError": ".figures",
    "Memory": "..runtime.process_memory",
    "Step": ".contender",
    "StepFigures": ".figures",
    "StepTime": ".figures",
    "artifact_command": ".interleaved",
    "batch_file": ".interleaved",
    "figures_to_json": ".figures",
    "measure_interleaved": ".interleaved",
    "measure_step": ".interleaved",
    "serve_steps": ".contender",
}
__all__ = [
    "LEARNING_RATE",
    "MeasureError",
    "Memory",
    "Step",
    "StepFigures",
    "StepTime",
    "artifact_command",
    "batch_file",
    "figures_to_json",
    "measure_interleaved",
    "measure_step",
    "serve_steps",
]

if TYPE_CHECKING:
    from ..runtime.process_memory import Memory
    from .contender import LEARNING_RATE, Step, serve_steps
    from .figures import MeasureError, StepFigures, StepTime, figures_to_json
    from .interleaved import artifact_command, batch_file, measure_interleaved, measure_step


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pockgraph.measure' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
