"""The whole training step of a task as one graph, and the smaller one of a plan.

Not here: lowering it for a runtime (`targets/`), and comparing it with PyTorch (`parity/`).
"""

from .builder import build
from .train_graph import TrainGraph

__all__ = ["TrainGraph", "build"]
