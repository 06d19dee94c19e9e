"""Plans: which tensors are trained, and which channels of each; rules that make them; budgets.

Imports no torch: a device reads plans too.
"""

from .budget import Budget
from .plan import BatchSpec, Plan, Trained

__all__ = ["BatchSpec", "Budget", "Plan", "Trained"]
