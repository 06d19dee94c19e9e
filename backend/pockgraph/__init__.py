"""PockGraph: choose what a network keeps learning, and compile that into a training step.

Not here: command lines and dashboards (`pockui/`); this package imports none of them. Names are imported
when first used, so that `pockgraph.runtime` works where torch is absent.
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
    "lora": "task.lora",
    "merge_lora": "task.lora",
    "build": "train_graph",
    "TrainGraph": "train_graph",
    "Plan": "plan",
    "Trained": "plan",
    "heads": "train_graph.attention_heads",
    "fisher_scores": "train_graph.channel_scores",
    "compile": "artifact.compiler",
    "Artifact": "artifact",
    "Budget": "plan",
    "Constraints": "search",
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
    "Constraints",
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
    "lora",
    "merge_lora",
]

if TYPE_CHECKING:
    from .artifact import Artifact
    from .artifact.compiler import compile
    from .errors import PockError
    from .optimizer import SGD, Adafactor, Adam, AdamW, Group, Lion
    from .plan import Budget, Plan, Trained
    from .search import Constraints
    from .study import Study
    from .task import Batches, Task
    from .task.lora import lora, merge_lora
    from .train_graph import TrainGraph
    from .train_graph.attention_heads import heads
    from .train_graph.builder import build
    from .train_graph.channel_scores import fisher_scores


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pockgraph' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
