"""Training steps as folders: pruning, lowering, checking, writing; merging trained weights into a module.

Not here: what reads the folder on a device (`runtime/`), and how a graph is lowered (`targets/`).
"""

from .artifact import Artifact

__all__ = ["Artifact"]
