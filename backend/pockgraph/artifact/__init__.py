"""Training steps as folders: pruning, lowering, checking and writing them; trained weights brought home.

What reads the folder on a device is `runtime/`.
"""

from .artifact import Artifact

__all__ = ["Artifact"]
