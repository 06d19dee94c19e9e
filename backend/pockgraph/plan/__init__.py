"""Plans: which tensors are trained, and which channels of each; rules that make them; budgets.

Not here: what a plan costs (`profile/`) or does to a graph (`train_graph/`); and torch, as a device reads
plans too.
"""

from .budget import Budget
from .plan import BatchSpec, Plan, Trained

__all__ = ["BatchSpec", "Budget", "Plan", "Trained"]
