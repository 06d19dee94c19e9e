"""`pockui bench`: a training step on OpenVINO against PyTorch and other peers, interleaved in one run.

Every row is a process of its own; all take turns for a few steps, in an order drawn anew each round.
All sides: SGD with momentum, the same batch, the same number of threads, batch norm in evaluation
mode. Beside the steps stand the times of this project itself: to a compiled step, to prune for another
plan, to answer a budget query. Names are imported when first used: contenders are modules of this package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Bench": "result",
    "Goal": "result",
    "goals": "result",
    "speedup": "result",
    "COLUMNS": "tables",
    "GOAL_COLUMNS": "tables",
    "ceilings_text": "tables",
    "goal_table": "tables",
    "markdown": "tables",
    "table": "tables",
}
__all__ = [
    "COLUMNS", "GOAL_COLUMNS", "Bench", "Goal", "ceilings_text", "goal_table", "goals", "markdown", "speedup",
    "table",
]  # fmt: skip

if TYPE_CHECKING:
    from .result import Bench, Goal, goals, speedup
    from .tables import COLUMNS, GOAL_COLUMNS, ceilings_text, goal_table, markdown, table


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pockui.bench' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
