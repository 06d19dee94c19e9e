"""Exceptions of others on the command line and in the page, told as `pockgraph.error_messages` tells them."""

from __future__ import annotations

from pathlib import Path

from pockgraph import error_messages
from pockgraph.error_messages import BAD_INPUT, BUG

__all__ = ["BAD_INPUT", "BUG", "explain"]


def explain(error: Exception) -> tuple[str, int]:
    """What to tell about an exception, and the exit status; see `pockgraph.error_messages.explain`."""
    return error_messages.explain(error, "pockui --debug", Path(__file__).parent)
