"""The best plan a budget allows, exactly; and the evolutionary search of the paper beside it.

Not here: graphs and torch. A `Profile` and a `Contribution` go in, a `Plan` comes out.
"""

from .constraints import Constraints
from .plan_search import frontier, search

__all__ = ["Constraints", "frontier", "search"]
