"""The PyTorch target: lowering, machine code on request, and the runner of its artefacts.

Not here: rules. PyTorch runs the operators of a graph as they are, and its artefacts need torch on the
device.
"""

from .target import TARGET, Torch

__all__ = ["TARGET", "Torch"]
