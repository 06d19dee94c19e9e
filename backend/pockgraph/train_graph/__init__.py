"""The whole training step of a task as one graph, and the smaller one of a plan.

Lowering it for a runtime is `targets/`; comparing it with PyTorch is `parity/`.
"""

from .builder import build
from .train_graph import TrainGraph

__all__ = ["TrainGraph", "build"]
