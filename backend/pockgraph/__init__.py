"""PockGraph: choose what a network keeps learning, and compile that into a training step.

Names are imported when first used, so that `pockgraph.runtime` works where torch is absent.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__

_HOME = {
    "Task": "task",
    "Batches": "task",
    "SGD": "optimizer",
    "Adafactor": "optimizer",
    "Adam": "optimizer",
    "AdamW": "optimizer",
    "Group": "optimizer",
    "Lion": "optimizer",
    "build": "autodiff",
    "TrainGraph": "train_graph",
    "Plan": "plan",
    "Trained": "plan",
    "heads": "attention",
    "fisher_scores": "fisher",
    "compile": "compiler",
    "Artifact": "artifact",
    "Budget": "budget",
    "Study": "study",
    "PockError": "errors",
}
__all__ = [
    "SGD",
    "Adafactor",
    "Adam",
    "AdamW",
    "Artifact",
    "Batches",
    "Budget",
    "Group",
    "Lion",
    "Plan",
    "PockError",
    "Study",
    "Task",
    "TrainGraph",
    "Trained",
    "build",
    "compile",
    "fisher_scores",
    "heads",
]

if TYPE_CHECKING:
    from .artifact import Artifact
    from .attention import heads
    from .autodiff import build
    from .budget import Budget
    from .compiler import compile
    from .errors import PockError
    from .fisher import fisher_scores
    from .optimizer import SGD, Adafactor, Adam, AdamW, Group, Lion
    from .plan import Plan, Trained
    from .study import Study
    from .task import Batches, Task
    from .train_graph import TrainGraph


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pockgraph' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
