"""A study: everything known about one task, in one file that survives.

How the file is written and locked is `store/`; how gains are measured is `contribution/`.
"""

from .records import Run, TargetParity
from .study import Study

Parity = TargetParity  # its name in earlier versions

__all__ = ["Parity", "Run", "Study", "TargetParity"]
