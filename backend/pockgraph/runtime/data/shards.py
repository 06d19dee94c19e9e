"""A folder of safetensors files that hold samples one after the other, read a batch at a time."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator
from safetensors import SafetensorError, safe_open

from ...errors import BatchError, reason
from ...files import open_regular
from ...strict_model import Strict
from ..artifact_files import file_sha256, require_inside
from ..checkpoint import DTYPES
from .folder import INDEX, Index
from .source import Arrays, Data, Wanted, joined

SCHEMA = "pockui.shards/1"
SUFFIX = ".safetensors"
_AGAIN = "Write the folder again with `pockui data`."


class ArraySpec(Strict):
    """An entry of a batch: of one sample, or `shared` by all."""

    dtype: str = Field(pattern="^(bool|u?int(8|16|32|64)|float(16|32|64))$")
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    shared: bool = False


class ShardSpec(Strict):
    """A file, and how many samples it holds; 0 for the one of the entries that all samples share."""

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors$", max_length=100)
    samples: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class ShardIndex(Index):
    """What a folder of shards holds.

    Attributes:
        samples: in all shards.
        entries: of a batch, by name.
        shards: the files, in the order of their samples.
        shared: the file of the entries that all samples share.
    """

    schema_: Literal["pockui.shards/1"] = Field(default=SCHEMA, alias="schema")
    samples: int = Field(ge=1)
    entries: dict[str, ArraySpec]
    shards: tuple[ShardSpec, ...]
    shared: ShardSpec | None = None

    @model_validator(mode="after")
    def _agrees(self) -> ShardIndex:
        files = self.files
        if len({s.file for s in files}) != len(files):
            raise ValueError("a file is named twice")
        if any(s.samples < 1 for s in self.shards) or sum(s.samples for s in self.shards) != self.samples:
            raise ValueError(f"the shards do not hold {self.samples} samples together")
        if any(e.shared for e in self.entries.values()) != (self.shared is not None):
            raise ValueError("entries are shared where there is no file of them, or the other way round")
        return self

    @property
    def files(self) -> list[ShardSpec]:
        return [*self.shards, *([self.shared] if self.shared else [])]

    def shapes(self, shard: ShardSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
        """What a file holds: dtype and shape by entry."""
        shared = shard == self.shared
        return {
            n: (e.dtype, e.shape if shared else (shard.samples, *e.shape))
            for n, e in self.entries.items()
            if e.shared == shared
        }


class ShardFolder(Data):
    """A folder of shards: one of them is open, and what a batch needs is read of it.

    Every file's header is compared with the index at once, its bytes when it is first read.

    Raises:
        BatchError: a file is missing, damaged or another one, or lacks what batches need.
    """

    def __init__(self, folder: Path, index: dict[str, Any], wanted: Wanted) -> None:
        self._folder, self._index, self._wanted = folder, ShardIndex.parse(folder, index), wanted
        self._rows = [n for n in wanted.entries if n in wanted.rows]
        self._require_entries()
        self._ends = list(accumulate(s.samples for s in self._index.shards))
        self._checked: set[str] = set()
        self._open: tuple[int, safe_open] | None = None
        for shard in self._index.files:
            self._opened(shard)
        samples = self._index.samples if self._rows else wanted.batch_size
        super().__init__(samples, self._read_whole(), wanted.batch_size)

    def read(self, start: int, stop: int) -> Arrays:
        return self._read(self._rows, start, stop) if self._rows else {}

    def digest(self) -> str:
        return hashlib.sha256(self._index.model_dump_json(by_alias=True).encode()).hexdigest()

    def _require_entries(self) -> None:
        held = self._index.entries
        missing = [n for n in self._wanted.entries if n not in held]
        if missing:
            lacks = ", ".join(map(repr, missing))
            raise BatchError(
                f"{self._folder} lacks {lacks}. {self._wanted.holds} It needs an entry for each."
            )
        for name in self._rows:
            if held[name].shared:
                raise BatchError(
                    f"{self._folder} has one {name!r} for all samples, and a batch one for each. "
                    f"{self._wanted.holds}"
                )

    def _read_whole(self) -> Arrays:
        names = [n for n in self._wanted.entries if n not in self._rows]
        shared = [n for n in names if self._index.entries[n].shared]
        apart = [n for n in names if n not in shared]
        found: Arrays = {}
        if shared and self._index.shared:
            file = self._verified(self._index.shared)
            found |= {n: file.get_tensor(n) for n in shared}
        return found | (self._read(apart, 0, self._index.samples) if apart else {})

    def _read(self, names: list[str], start: int, stop: int) -> Arrays:
        parts: list[Arrays] = []
        while start < stop:
            number = bisect_right(self._ends, start)
            shard, end = self._index.shards[number], self._ends[number]
            first = end - shard.samples
            if self._open is None or self._open[0] != number:
                self._open = None
                self._open = number, self._verified(shard)
            rows = slice(start - first, min(stop, end) - first)
            file = self._open[1]
            parts.append({n: np.asarray(file.get_slice(n)[rows]) for n in names})
            start = min(stop, end)
        return joined(parts)

    def _verified(self, shard: ShardSpec) -> safe_open:
        """A shard whose bytes are those that were written."""
        if shard.file not in self._checked:
            path = self._folder / shard.file
            try:
                found = file_sha256(path)
            except OSError as e:
                raise BatchError(f"Cannot read {path}: {reason(e)}. {_AGAIN}") from None
            if found != shard.sha256:
                raise BatchError(f"{path} was changed or damaged: its SHA-256 differs. {_AGAIN}")
            self._checked.add(shard.file)
        return self._opened(shard)

    def _opened(self, shard: ShardSpec) -> safe_open:
        """A shard whose header says what the index says."""
        path = self._folder / shard.file
        try:
            require_inside(self._folder, path)
            with open_regular(path) as f:
                size = f.seek(0, 2)
            if size != shard.bytes:
                raise BatchError(f"{path} has {size} bytes instead of {shard.bytes}. {_AGAIN}")
            file = safe_open(path, framework="numpy")
            slices = {n: file.get_slice(n) for n in list(file.keys())}
        except FileNotFoundError:
            raise BatchError(f"{path} is missing, which {INDEX} names. {_AGAIN}") from None
        except (OSError, SafetensorError, ValueError, MemoryError) as e:
            raise BatchError(f"Cannot read {path}: {reason(e)}. {_AGAIN}") from None
        held = {n: (DTYPES.get(s.get_dtype(), "?"), tuple(s.get_shape())) for n, s in slices.items()}
        if held != (expected := self._index.shapes(shard)):
            name = next(n for n in {**held, **expected} if held.get(n) != expected.get(n))
            raise BatchError(f"{path} does not hold what {INDEX} says of {name!r}. {_AGAIN}")
        return file


def bytes_of(arrays: Arrays) -> int:
    """What arrays take."""
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays.values())
