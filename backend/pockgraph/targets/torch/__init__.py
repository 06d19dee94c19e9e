"""The PyTorch target: lowering, machine code on request, and the runner of its artefacts.

The only target whose runner imports torch.
"""

from .target import TARGET, Torch

__all__ = ["TARGET", "Torch"]
