"""Checks that a batch holds only indices that the graph has rows for. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from ..errors import BatchError


class Limit(BaseModel):
    """What one batch entry, or a part of it, may hold.

    Attributes:
        entry: its name.
        low, high: the smallest and the largest value.
        also: values beside these, such as a loss's ignore_index.
        why: what the values are, in words.
        remedy: what to do about others, in a sentence; empty for what helps with indices.
        places: the part: a slice for each dimension, or flat numbers of elements; None for the whole.
        reached: one value at least is `high`.
        descending, ascending: no value is larger, or smaller, than the one before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    entry: str
    low: int
    high: int
    also: tuple[int, ...] = ()
    why: str
    remedy: str = ""
    places: tuple[tuple[int, int, int], ...] | tuple[int, ...] | None = None
    reached: bool = False
    descending: bool = False
    ascending: bool = False

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether there is such a part of an array of this shape."""
        places = self.places
        if places is None:
            return True
        if not places or not isinstance(places[0], tuple):
            return all(isinstance(i, int) and 0 <= i < math.prod(shape) for i in places)
        return len(places) == len(shape) and all(s[2] > 0 for s in places)  # pyright: ignore

    def part(self, array: np.ndarray) -> np.ndarray:
        if self.places is None:
            return array
        if self.places and isinstance(self.places[0], tuple):
            return array[tuple(slice(*s) for s in self.places)]  # pyright: ignore
        return array.reshape(-1)[list(self.places)]  # pyright: ignore


_ROOM = "Correct the data, or compile a model that has room for it."


def check_limits(arrays: Mapping[str, np.ndarray], limits: Sequence[Limit], task: str) -> None:
    """Refuse values that no row of the model stands for.

    Raises:
        BatchError: naming the entry, the value, its place and what is allowed.
    """
    for limit in limits:
        part = limit.part(arrays[limit.entry])
        if part.size and (part.min() < limit.low or part.max() > limit.high):
            _refuse(arrays[limit.entry], part, limit, task)
        if limit.reached and part.max(initial=limit.low) != limit.high:
            raise BatchError(
                f"Batch entry {limit.entry!r} of task {task!r} holds at most {part.max()}, but these are "
                f"{limit.why}, and the model pads its sequences to the longest of the batch, for which a "
                f"compiled step has one size. Give batches whose longest sequence has {limit.high} steps, or "
                f"build again from a model that calls pad_packed_sequence(…, total_length={limit.high})."
            )
        if limit.descending and (np.diff(part.reshape(-1)) > 0).any():
            raise BatchError(
                f"Batch entry {limit.entry!r} of task {task!r} is not in descending order, as "
                "pack_padded_sequence(…, enforce_sorted=True) takes lengths. Sort the samples of the batch, "
                "or build again from a model that passes enforce_sorted=False."
            )
        if limit.ascending and (np.diff(part.reshape(-1)) < 0).any():
            raise BatchError(
                f"Batch entry {limit.entry!r} of task {task!r} is not in ascending order, as {limit.why} "
                f"are. {limit.remedy}"
            )


def _refuse(array: np.ndarray, part: np.ndarray, limit: Limit, task: str) -> None:
    bad = ((part < limit.low) | (part > limit.high)) & ~np.isin(part, limit.also)
    if not bad.any():
        return
    number = limit.part(np.arange(array.size).reshape(array.shape))[bad].flat[0]
    at = np.unravel_index(int(number), array.shape)
    count = int(bad.sum())
    place = f" at {[int(i) for i in at]}" if at else ""
    more = f" ({count} such values)" if count > 1 else ""
    allowed = f"{limit.low} to {limit.high}" if limit.low < limit.high else f"{limit.low}"
    also = f", or {', '.join(map(str, limit.also))} to ignore" if limit.also else ""
    raise BatchError(
        f"Batch entry {limit.entry!r} of task {task!r} holds {array[at]}{place}{more}, but these are "
        f"{limit.why}: {allowed}{also}. {limit.remedy or _ROOM}"
    )


def require_entries(limits: Iterable[Limit], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError: a limit of what is not in a batch of these entries."""
    for limit in limits:
        if limit.entry not in shapes or not limit.fits(shapes[limit.entry]):
            raise ValueError(f"a limit of {limit.entry!r} is of no entry, or of no part of it")
