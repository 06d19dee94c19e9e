"""What an artefact's batches hold, and samples that are read for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...plan import BatchSpec
from ..batch import describe
from ..batch_limits import Limit
from ..forward_passes import holds, rows_of
from ..graph_specs import PredictionSpec
from ..manifest import Manifest

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Wanted:
    """What batches of an artefact hold.

    Attributes:
        task: the task's name.
        entries: of a batch.
        rows: those of them that have a row for each sample.
        batch_size: samples of a batch.
        holds: the same in a sentence.
        limits: what an entry may hold.
    """

    task: str
    entries: Mapping[str, BatchSpec]
    rows: Collection[str]
    batch_size: int
    holds: str
    limits: Sequence[Limit] = ()

    @classmethod
    def for_training(cls, manifest: Manifest) -> Wanted:
        """The batches that are trained on and evaluated."""
        batch_size = manifest.eval.outputs[0].shape[0]
        rows = [n for n, spec in manifest.batch.items() if spec.shape[:1] == (batch_size,)]
        said = f"A batch of task {manifest.task!r} holds {describe(manifest.batch.items())}."
        return cls(manifest.task, manifest.batch, rows, batch_size, said, manifest.train_limits)

    @classmethod
    def for_prediction(cls, manifest: Manifest) -> Wanted:
        """The batches that are predicted; the manifest has a prediction."""
        sizes: Sequence[PredictionSpec] = manifest.predict
        largest, rows = sizes[-1], rows_of(sizes)
        return cls(manifest.task, largest.batch, rows, largest.samples or 1, holds(sizes), largest.limits)


class Data(ABC):
    """Samples in a fixed order, read in fixed batches, from the start again at the end.

    An entry that has no samples (its first dimension is not the batch's) goes whole into every batch. Where
    none has, there is one batch.

    Attributes:
        samples: how many there are.
        whole: the entries without samples.
        batch_size: samples of a batch.
    """

    def __init__(self, samples: int, whole: Arrays, batch_size: int) -> None:
        self.samples, self.whole, self.batch_size = samples, whole, batch_size

    @abstractmethod
    def read(self, start: int, stop: int) -> Arrays:
        """The samples `start` to `stop`, `0 <= start < stop <= samples`, as arrays `[stop - start, ...]`.

        Raises:
            BatchError: they cannot be read.
        """

    @abstractmethod
    def digest(self) -> str:
        """Tells this data from other: a hexadecimal SHA-256."""

    def batch(self, number: int) -> Arrays:
        """Batch `number`, from 0 on.

        Raises:
            BatchError: it cannot be read.
        """
        start = number * self.batch_size % self.samples
        parts, left = [], self.batch_size
        while left:
            stop = min(start + left, self.samples)
            parts.append(self.read(start, stop))
            left -= stop - start
            start = 0
        return joined(parts) | self.whole

    def batches(self) -> Iterator[Arrays]:
        """All samples once; the last batch may be smaller."""
        for start in range(0, self.samples, self.batch_size):
            yield self.read(start, min(start + self.batch_size, self.samples)) | self.whole

    def each(self) -> Iterator[Arrays]:
        """All samples once, one by one, without their first dimension."""
        for start in range(0, self.samples, self.batch_size):
            stop = min(start + self.batch_size, self.samples)
            arrays = self.read(start, stop)
            for number in range(stop - start):
                yield {name: array[number] for name, array in arrays.items()}


def joined(parts: Sequence[Arrays]) -> Arrays:
    """Arrays of the same names, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
