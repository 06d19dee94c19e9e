"""A study: everything known about one task, in one file.

Not here: how the file is written and locked (`store/`), and how gains are measured (`contribution/`).
"""

from .records import Run, TargetParity
from .study import Study

Parity = TargetParity  # its name in earlier versions

__all__ = ["Parity", "Run", "Study", "TargetParity"]
