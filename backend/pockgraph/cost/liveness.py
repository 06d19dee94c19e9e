"""Which bytes are alive when, for any schedule. Pure Python: graphs and profiles share it.

The rules, stated once:

- a view owns no memory, it keeps alive what it looks at;
- an elementwise step may write over an operand of its own size that dies there;
- weights, optimizer state and the batch are resident: alive all the time, and a new weight or
  state takes its predecessor's place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class Step:
    """One operator of a schedule.

    Attributes:
        storage: identifies the memory this step's result lives in.
        owns_bytes: how much it allocates for it; 0 for a view or a tuple of results.
        operands: storages it reads (resident ones left out).
        elementwise: it may write over an operand.
        forward: it belongs to the forward pass.
    """

    name: str
    storage: int
    owns_bytes: int
    operands: tuple[int, ...]
    elementwise: bool
    forward: bool


@dataclass(frozen=True)
class Curve:
    """Bytes alive while each step runs, resident ones not included.

    Attributes:
        live_bytes: one figure a step.
        saved_bytes: alive between the forward and the backward pass.
    """

    live_bytes: list[int]
    saved_bytes: int


def liveness(steps: Sequence[Step], kept: frozenset[int] = frozenset()) -> Curve:
    """The curve of a schedule; `kept` storages (results) stay alive to the end."""
    last: dict[int, int] = {}
    for i, step in enumerate(steps):
        for operand in step.operands:
            last[operand] = i
        last.setdefault(step.storage, i)
    dying: list[list[int]] = [[] for _ in steps]
    for storage, i in last.items():
        if storage not in kept:
            dying[i].append(storage)
    boundary = max((i for i, s in enumerate(steps) if s.forward), default=-1)

    size: dict[int, int] = {}
    live = saved = 0
    curve = []
    for i, step in enumerate(steps):
        own = step.owns_bytes
        if own:
            size[step.storage] = own
            live += own
            reuse = step.elementwise and any(
                o in step.operands and o != step.storage and size.get(o) == own for o in dying[i]
            )
            curve.append(live - own if reuse else live)
        else:
            curve.append(live)
        for storage in dying[i]:
            live -= size.get(storage, 0)
        if i == boundary:
            saved = live
    return Curve(curve, saved)
