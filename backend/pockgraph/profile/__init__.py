"""The cost profile of a training graph: memory, operations and time of any plan, without making its graph.

Not here: measuring times (`study/time_plans.py`); and torch, except in `profiler`.
"""

from .profile import Figures, Profile, TimeModel

__all__ = ["Figures", "Profile", "TimeModel"]
