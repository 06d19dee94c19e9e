"""What is to be learnt: a model, its loss and metric, and data in whatever form people keep it.

Nothing here runs the model or knows of graphs.
"""

from .batches import Batches
from .task import Task

__all__ = ["Batches", "Task"]
