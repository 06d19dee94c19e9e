"""The cost profile of a training graph: memory, operations and time of any plan, without making its graph.

Not here: measuring plans (`study/measured_plans.py`); and torch, except in `profiler`.
"""

from .measured_plan import MeasuredPlan
from .memory_model import MemoryModel, ProcessMemory
from .profile import Figures, Profile, TimeModel

__all__ = ["Figures", "MeasuredPlan", "MemoryModel", "ProcessMemory", "Profile", "TimeModel"]
