"""Lowering rules that runtimes share: each computes by the functions of a target's `emit`, an `Emitter`.

Not here: what only one runtime has, or does wrong: it stands in the target's own folder. `add_to` gives the
rules to a target.
"""

from __future__ import annotations

from . import convolution, elementwise, indexing, layout, pooling, reduction  # noqa: F401  the rules register themselves
from .shared_rules import add_to

__all__ = ["add_to"]
