"""A study: everything known about one task, in one file that survives."""

from .records import Parity, Run
from .study import Study

__all__ = ["Parity", "Run", "Study"]
