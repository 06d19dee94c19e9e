"""Batches of arrays that lie in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch.utils.data import TensorDataset

from ..errors import TaskError
from .arrays import columns_of, tensor_of
from .batch import Batch


@dataclass(frozen=True)
class Batches:
    """A re-iterable of fixed-shape batches over arrays that share their first dimension.

    The ragged last batch is dropped: a compiled step has one batch shape. A memory-mapped array stays one.

    Args:
        arrays: name -> array `[N, ...]` (numpy, torch, pandas or a list); or a data frame; or a tuple of
            arrays, whose batches are tuples.
        batch_size: samples a batch.
        shuffle: draw a new order from `seed` instead of the arrays' own.
        transform: applied to each batch (a dict of tensors), e.g. a resize.
        rows: only these samples, in this order; None takes all.
        tuples: whether batches are tuples instead of dicts; as `arrays` is unless said otherwise.

    Raises:
        TaskError: arrays that are none, or differ in length; a batch size below 1 or above theirs.
    """

    arrays: Mapping[str, Any]
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    transform: Callable[[Batch], Batch] | None = None
    max_batches: int | None = None
    rows: np.ndarray | None = field(default=None, kw_only=True)
    tuples: bool | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.tuples is None:
            object.__setattr__(self, "tuples", isinstance(self.arrays, tuple | list | TensorDataset))
        object.__setattr__(self, "arrays", columns_of(self.arrays))
        sizes = {name: len(a) for name, a in self.arrays.items()}
        if len(set(sizes.values())) != 1:
            raise TaskError(f"Batches: arrays must share their first dimension, got {sizes}.")
        if not isinstance(self.batch_size, int | np.integer) or self.batch_size < 1:
            raise TaskError(f"Batches: batch_size must be a number of samples, got {self.batch_size!r}.")

    @property
    def samples(self) -> int:
        return len(next(iter(self.arrays.values())) if self.rows is None else self.rows)

    def __len__(self) -> int:
        n = self.samples // self.batch_size
        return n if self.max_batches is None else min(n, self.max_batches)

    def __iter__(self) -> Iterator[Any]:
        order = np.random.default_rng(self.seed).permutation(self.samples) if self.shuffle else None
        for b in range(len(self)):
            span = slice(b * self.batch_size, (b + 1) * self.batch_size)
            pick = span if order is None else order[span]
            if self.rows is not None:
                pick = self.rows[pick]
            batch = {k: tensor_of(a[pick]) for k, a in self.arrays.items()}
            if self.transform:
                # A slice is a view, and what is changed in place would change the arrays.
                batch = {k: v.clone() for k, v in batch.items()} if isinstance(pick, slice) else batch
                batch = self.transform(batch)
            yield tuple(batch.values()) if self.tuples and isinstance(batch, dict) else batch

    def shuffled(self, seed: int) -> Batches:
        """The same samples in the order that `seed` draws."""
        return replace(self, shuffle=True, seed=seed)

    def only(self, samples: np.ndarray) -> Batches:
        """Only the samples of these numbers, in this order."""
        return replace(self, rows=samples if self.rows is None else self.rows[samples])

    def limit(self, batches: int) -> Batches:
        """Only the first `batches` batches."""
        return replace(self, max_batches=batches)
