"""The planner in a notebook: native widgets over the same state and the same `.js` as the web app.

Not here: what is shown (`pockui/bindings.py`, `pockui/info/`), and parts one drags (`pockui/components/`).

    from pockui.widgets import Planner
    planner = Planner(study)
    planner            # drag budgets and shares
    planner.plan       # the Plan, as it stands

Needs the extra `jupyter`. No server, and nothing is fetched from elsewhere.
"""

from __future__ import annotations

from .parts import state_of
from .planner import FrontierLine, LayerBars, MemoryTimeline, Planner
from .train_monitor import TrainMonitor

__all__ = ["FrontierLine", "LayerBars", "MemoryTimeline", "Planner", "TrainMonitor", "state_of"]
