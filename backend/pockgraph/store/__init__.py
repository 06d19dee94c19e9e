"""The SQLite file of a study: opening it, its tables and their versions, and who may write.

Not here: making values of rows (`study/`). `schema.py` says what the tables hold.
"""

from .store import Store

__all__ = ["Store"]
