"""The SQLite file of a study: opening it, its tables and their versions, and who may write.

Nothing here knows what the tables mean.
"""

from .store import Store

__all__ = ["Store"]
