"""A training graph as numbers: what any plan of it would cost, without making its graph.

Only `profiler` imports torch.
"""

from .profile import Figures, Profile, TimeModel

__all__ = ["Figures", "Profile", "TimeModel"]
