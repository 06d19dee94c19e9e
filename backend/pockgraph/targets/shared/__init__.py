"""Lowering rules that runtimes share: each computes by the functions of a target's module `emit`.

`add_to` gives them to a target. What only one runtime has, or does wrong, stands in the target's own folder.
"""

from __future__ import annotations

from . import elementwise, indexing, layout, pooling, reduction  # noqa: F401  the rules register themselves
from .rules import add_to

__all__ = ["add_to"]
