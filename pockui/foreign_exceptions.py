"""Exceptions of others on the command line and in the page, told as in `pockgraph.foreign_exceptions`."""

from __future__ import annotations

from pathlib import Path

from pockgraph import foreign_exceptions
from pockgraph.foreign_exceptions import BAD_INPUT, BUG

__all__ = ["BAD_INPUT", "BUG", "explain"]


def explain(error: Exception, debug: str = "pockui --debug") -> tuple[str, int]:
    """What to tell about an exception, and the exit status; see `pockgraph.foreign_exceptions.explain`."""
    return foreign_exceptions.explain(error, debug, Path(__file__).parent)
