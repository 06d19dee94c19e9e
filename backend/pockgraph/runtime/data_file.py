"""Data for the command line: an npz file of arrays, read in batches."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import BatchError, reason
from ..files import open_regular
from .batch import describe
from .manifest import Manifest

_format = np.lib.format


class Data:
    """Arrays `[N, ...]` by batch entry, read in fixed batches, from the start again at the end.

    An entry that has no samples (its first dimension is not the batch's) goes whole into every batch. Where
    none has, there is one batch.
    """

    def __init__(self, arrays: dict[str, np.ndarray], whole: dict[str, np.ndarray], batch_size: int) -> None:
        self.arrays, self.whole, self.batch_size = arrays, whole, batch_size
        self.samples = next((len(a) for a in arrays.values()), batch_size)

    @classmethod
    def for_training(cls, path: Path, manifest: Manifest) -> Data:
        """Read an npz file for the artefact's training batches.

        Raises:
            BatchError: not an npz file, an entry is missing, or arrays differ in length.
        """
        batch_size = manifest.eval.outputs[0].shape[0]
        rows = [n for n, spec in manifest.batch.items() if spec.shape[:1] == (batch_size,)]
        holds = f"A batch of task {manifest.task!r} holds {describe(manifest.batch.items())}."
        return cls.load(path, manifest.batch, rows, batch_size, holds)

    @classmethod
    def load(
        cls, path: Path, entries: Collection[str], rows: Collection[str], batch_size: int, holds: str
    ) -> Data:
        """Read an npz file.

        Args:
            entries: of a batch; rows: those that have a row for each sample.
            holds: what a batch holds, in a sentence.

        Raises:
            BatchError: not an npz file, an entry is missing, or arrays differ in length.
        """
        try:
            with open_regular(path) as opened, _archive(opened) as file:
                missing = [n for n in entries if n not in file]
                if missing:
                    lacks = ", ".join(map(repr, missing))
                    raise BatchError(f"{path} lacks {lacks}. {holds} The file needs an array for each.")
                _require_true_sizes(file.zip, [f"{n}.npy" for n in entries])
                arrays = {n: file[n] for n in entries}
        except (
            OSError, ValueError, zipfile.BadZipFile, zlib.error, AttributeError, TypeError, EOFError,
            KeyError, MemoryError, RuntimeError, SyntaxError,
        ) as e:  # fmt: skip
            raise BatchError(
                f"Cannot read {path} as an npz file: {_unreadable(e)}. Write it with numpy.savez."
            ) from None
        whole = {n: arrays.pop(n) for n in entries if n not in rows}
        lengths = {n: len(a) if a.ndim else 0 for n, a in arrays.items()}
        if not any(lengths.values()) and rows:
            raise BatchError(f"{path} holds no samples. {holds}")
        if rows and (len(set(lengths.values())) != 1 or 0 in lengths.values()):
            raise BatchError(
                f"The arrays of {path} need one common number of samples, not {lengths}. {holds}"
            )
        return cls(arrays, whole, batch_size)

    def batch(self, number: int) -> dict[str, np.ndarray]:
        start = number * self.batch_size % self.samples
        if start + self.batch_size <= self.samples:
            return self._cut(slice(start, start + self.batch_size))
        return self._cut(np.arange(start, start + self.batch_size) % self.samples)

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        """All samples once; the last batch may be smaller."""
        for start in range(0, self.samples, self.batch_size):
            yield self._cut(slice(start, start + self.batch_size))

    def _cut(self, samples: slice | np.ndarray) -> dict[str, np.ndarray]:
        return {n: a[samples] for n, a in self.arrays.items()} | self.whole


def _archive(opened: BinaryIO) -> Any:
    if opened.read(2) != b"PK":  # numpy would take it for a pickle, and advise to trust it
        raise ValueError("it is another kind of file")
    opened.seek(0)
    return np.load(opened, allow_pickle=False)


def _unreadable(error: Exception) -> str:
    if "allow_pickle" in str(error):
        return "it holds Python objects instead of numbers"
    return "there is not enough memory" if isinstance(error, MemoryError) else reason(error)


def _require_true_sizes(archive: zipfile.ZipFile, names: Sequence[str]) -> None:
    """Refuse arrays whose header claims another size than is stored, before memory is taken for them.

    Raises:
        ValueError: naming the array.
    """
    for name in set(names) & set(archive.namelist()):
        with archive.open(name) as f:
            version = _format.read_magic(f)
            one = version == (1, 0)
            shape, _, dtype = (_format.read_array_header_1_0 if one else _format.read_array_header_2_0)(f)
            claimed, stored = math.prod(shape) * dtype.itemsize, archive.getinfo(name).file_size - f.tell()
        if claimed != stored and not dtype.hasobject:
            raise ValueError(f"{name} claims {claimed} bytes and holds {stored}")
