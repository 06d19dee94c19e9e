"""The PyTorch target: lowering, machine code on request, and the runner of its artefacts.

Its runner imports torch, as ExecuTorch's does; those of other targets must not.
"""

from .target import TARGET, Torch

__all__ = ["TARGET", "Torch"]
