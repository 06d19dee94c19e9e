"""An npz file: an array `[N, ...]` for each entry of a batch, held in memory."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import BatchError, reason
from ...files import open_regular
from ..artifact_files import file_sha256
from .source import Arrays, Data, Wanted

_format = np.lib.format


class NpzFile(Data):
    """The arrays of an npz file.

    Raises:
        BatchError: not an npz file, an entry is missing, or arrays differ in length.
    """

    def __init__(self, path: Path, wanted: Wanted) -> None:
        arrays, rows = _arrays(path, wanted), wanted.rows
        whole = {n: arrays.pop(n) for n in wanted.entries if n not in rows}
        lengths = {n: len(a) if a.ndim else 0 for n, a in arrays.items()}
        if not any(lengths.values()) and rows:
            raise BatchError(f"{path} holds no samples. {wanted.holds}")
        if rows and (len(set(lengths.values())) != 1 or 0 in lengths.values()):
            raise BatchError(
                f"The arrays of {path} need one common number of samples, not {lengths}. {wanted.holds}"
            )
        super().__init__(next(iter(lengths.values()), wanted.batch_size), whole, wanted.batch_size)
        self._arrays, self._path = arrays, path

    def read(self, start: int, stop: int) -> Arrays:
        return {n: a[start:stop] for n, a in self._arrays.items()}

    def digest(self) -> str:
        return file_sha256(self._path)


def _arrays(path: Path, wanted: Wanted) -> Arrays:
    try:
        with open_regular(path) as opened, _archive(opened) as file:
            missing = [n for n in wanted.entries if n not in file]
            if missing:
                lacks = ", ".join(map(repr, missing))
                raise BatchError(f"{path} lacks {lacks}. {wanted.holds} The file needs an array for each.")
            _require_true_sizes(file.zip, [f"{n}.npy" for n in wanted.entries])
            return {n: file[n] for n in wanted.entries}
    except (
        OSError, ValueError, zipfile.BadZipFile, zlib.error, AttributeError, TypeError, EOFError,
        KeyError, MemoryError, RuntimeError, SyntaxError,
    ) as e:  # fmt: skip
        raise BatchError(
            f"Cannot read {path} as an npz file: {_unreadable(e)}. Write it with numpy.savez."
        ) from None


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
