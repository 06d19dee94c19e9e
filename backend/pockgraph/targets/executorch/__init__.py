"""The ExecuTorch target, experimental: a training step as a program that ExecuTorch's portable kernels run.

Nothing here imports the package `executorch` before something is compiled or loaded.
"""

from .target import TARGET, ExecuTorch

__all__ = ["TARGET", "ExecuTorch"]
