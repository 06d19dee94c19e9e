"""The ExecuTorch target, experimental: a training step as a program that ExecuTorch's portable kernels run.

Not here: rules. What the kernels lack is written in terms of others by `passes/legalize/`. The package
`executorch` is imported when something is compiled or loaded.
"""

from .target import TARGET, ExecuTorch

__all__ = ["TARGET", "ExecuTorch"]
