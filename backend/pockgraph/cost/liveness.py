"""Which bytes are alive when, for any schedule. No torch: graphs and profiles share it.

The rules, stated once:

- a view owns no memory, it keeps alive what it looks at;
- an elementwise step may write over an operand of its own size that dies there;
- weights, optimizer state and the batch are resident: alive all the time, and a new weight or
  state takes its predecessor's place.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer[Any]]
Flags = NDArray[np.bool_]


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


class Schedule(NamedTuple):
    """The steps of a schedule as arrays.

    Attributes:
        storage, owns_bytes, elementwise, forward: of each step [S], as `Step` has them. Storages are numbers
            from 0; one of -1 is no memory at all.
        readers, reads: [P], a step and a storage that it reads, for each operand, in any order.
    """

    storage: Integers
    owns_bytes: Integers
    elementwise: Flags
    forward: Flags
    readers: Integers
    reads: Integers


class Lifetimes(NamedTuple):
    """When the storages of a schedule are made and freed.

    Attributes:
        nbytes: of each storage; the last one stands for no memory at all.
        made: the step that makes it first; as many as there are steps: none does.
        dies: the last step in which it is alive; as many as there are steps: it stays.
        written_over: [S], the step's result takes the place of an operand that dies there.
    """

    nbytes: Integers
    made: Integers
    dies: Integers
    written_over: Flags


@dataclass(frozen=True)
class Curve:
    """Bytes alive while each step runs, resident ones not included.

    Attributes:
        live_bytes: [S], one figure a step.
        saved_bytes: alive between the forward and the backward pass.
    """

    live_bytes: Integers
    saved_bytes: int


def schedule_of(steps: Sequence[Step]) -> Schedule:
    operands = [(i, operand) for i, step in enumerate(steps) for operand in step.operands]
    readers, reads = np.array(operands, np.int64).reshape(-1, 2).T
    return Schedule(
        np.array([s.storage for s in steps], np.int64),
        np.array([s.owns_bytes for s in steps], np.int64),
        np.array([s.elementwise for s in steps], bool),
        np.array([s.forward for s in steps], bool),
        readers,
        reads,
    )


def lifetimes(schedule: Schedule, kept: Collection[int] = ()) -> Lifetimes:
    """Of a schedule that has steps; `kept` storages (results) stay alive to the end."""
    storage, owns, elementwise, _, readers, reads = schedule
    count, places = len(storage), np.arange(len(storage))
    # One place more, where -1 points: it has no bytes.
    storages = int(max(storage.max(), reads.max(initial=-1))) + 2
    owned, size = np.flatnonzero(owns), np.zeros(storages, np.int64)
    size[storage[owned]] = owns[owned]
    dies = np.full(storages, -1)
    np.maximum.at(dies, reads, readers)
    first = np.full(storages, count)
    np.minimum.at(first, storage, places)
    dies = np.where(dies < 0, first, dies)  # what nobody reads dies where it is made
    dies[list(kept)] = count
    written_over = (
        elementwise[readers]
        & (dies[reads] == readers)
        & (size[reads] == owns[readers])
        & (reads != storage[readers])
    )
    reuses = np.zeros(count, bool)
    reuses[readers[written_over]] = True
    return Lifetimes(size, first, dies, reuses)


def liveness(schedule: Schedule, kept: Collection[int] = ()) -> Curve:
    """The curve of a schedule; `kept` as for `lifetimes`."""
    count, owns = len(schedule.storage), schedule.owns_bytes
    if not count:
        return Curve(np.zeros(0, np.int64), 0)
    found = lifetimes(schedule, kept)
    freed = np.zeros(count + 1, np.int64)
    np.add.at(freed, found.dies, found.nbytes)
    live = np.cumsum(owns)
    gone = np.cumsum(freed[:count])
    boundary = np.flatnonzero(schedule.forward)[-1:]
    curve = live - gone + freed[:count] - np.where(found.written_over, owns, 0)
    return Curve(curve, int((live - gone)[boundary].sum()))
