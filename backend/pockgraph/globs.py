"""Which names a user's pattern means."""

from __future__ import annotations

from fnmatch import fnmatchcase


def matches(name: str, pattern: str) -> bool:
    """Is it the name itself, which may hold brackets and stars, or does the glob match it?"""
    return name == pattern or fnmatchcase(name, pattern)
