"""What is to be learnt: a model, its loss and metric, and data in whatever form people keep it.

Not here: running the model (`capture/`), and graphs.
"""

from .batches import Batches
from .task import Task

__all__ = ["Batches", "Task"]
