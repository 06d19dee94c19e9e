"""The SQLite file of a study: opening it, its tables and their versions, and who may write.

`schema.py` says what its tables hold; making values of their rows is `study/`'s.
"""

from .store import Store

__all__ = ["Store"]
