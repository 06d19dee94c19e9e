"""The best plan a budget allows, exactly: variables, constraints, and the solver.

Numbers only, no torch: a `Profile` and a `Contribution` go in, a `Plan` comes out.
"""

from .plan_search import frontier, search

__all__ = ["frontier", "search"]
