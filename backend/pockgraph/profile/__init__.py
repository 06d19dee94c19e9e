"""The cost profile of a training graph: memory, operations and time of any plan, without making its graph.

Not here: measuring times (`study/time_plans.py`); and torch, except in `profiler`.
"""

from .measured_plan import MeasuredPlan
from .profile import Figures, Profile, TimeModel

__all__ = ["Figures", "MeasuredPlan", "Profile", "TimeModel"]
