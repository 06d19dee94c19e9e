"""A study: everything known about one task, in one file that survives."""

from .study import Parity, Run, Study

__all__ = ["Parity", "Run", "Study"]
