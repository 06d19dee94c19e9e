"""The cost profile of a training graph: memory, operations and time of any plan, without making its graph.

Measuring times is `study/time_plans.py`. Only `profiler` imports torch.
"""

from .profile import Figures, Profile, TimeModel

__all__ = ["Figures", "Profile", "TimeModel"]
