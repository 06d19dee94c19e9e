"""Writes a folder of shards as samples come, whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ...errors import BatchError
from ...files import replacing
from .folder import INDEX, read_index
from .shards import SCHEMA, SUFFIX, ArraySpec, ShardIndex, ShardSpec, bytes_of
from .source import Arrays, joined

_SHARED = f"shared{SUFFIX}"


class ShardWriter:
    """Writes samples to numbered files in a folder; in memory is one of them.

    Args:
        shard_bytes: a file ends with the batch that makes its arrays as large as that.

    Attributes:
        index: what was written; complete after `finish`.
    """

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self._folder, self._shard_bytes = folder, shard_bytes
        self._waiting: list[Arrays] = []
        self._waiting_bytes = 0
        self._entries: dict[str, ArraySpec] = {}
        self._shards: list[ShardSpec] = []
        self.index: ShardIndex | None = None

    def add(self, rows: Arrays) -> None:
        """Add samples, as arrays `[n, ...]` that differ from those before in `n` alone.

        Raises:
            BatchError: they differ in something else.
            OSError: a file cannot be written.
        """
        given = {n: ArraySpec(dtype=str(a.dtype), shape=a.shape[1:]) for n, a in rows.items()}
        if self._entries and given != self._entries:
            name = next(n for n in {**given, **self._entries} if given.get(n) != self._entries.get(n))
            raise BatchError(
                f"The samples of {name!r} differ in shape or dtype. Bring all to one: shards hold arrays."
            )
        self._entries = given
        # A batch may be a view of memory that its source fills again.
        self._waiting.append({n: np.array(a, order="C") for n, a in rows.items()})
        self._waiting_bytes += bytes_of(rows)
        if self._waiting_bytes >= self._shard_bytes:
            self._write_shard()

    def finish(self, shared: Arrays) -> ShardIndex:
        """Write what is left, the entries that all samples share, and the index.

        Raises:
            BatchError: there are no samples.
            OSError: a file cannot be written.
        """
        if self._waiting:
            self._write_shard()
        if not self._shards:
            raise BatchError("There are no samples to write.")
        entries = self._entries | {
            n: ArraySpec(dtype=str(a.dtype), shape=a.shape, shared=True) for n, a in shared.items()
        }
        self.index = ShardIndex(
            schema=SCHEMA,
            samples=sum(s.samples for s in self._shards),
            entries=entries,
            shards=tuple(self._shards),
            shared=self._written(_SHARED, shared, 0) if shared else None,
        )
        text = self.index.model_dump_json(by_alias=True, indent=1)
        (self._folder / INDEX).write_text(text + "\n", encoding="utf-8")
        return self.index

    def _write_shard(self) -> None:
        arrays = joined(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        samples = len(next(iter(arrays.values())))
        self._shards.append(self._written(f"{len(self._shards):06}{SUFFIX}", arrays, samples))

    def _written(self, name: str, arrays: Arrays, samples: int) -> ShardSpec:
        path = self._folder / name
        save_file({n: np.array(a, order="C", copy=None) for n, a in arrays.items()}, path)
        with path.open("rb") as f:
            digest = hashlib.file_digest(f, "sha256").hexdigest()
            return ShardSpec(file=name, samples=samples, bytes=f.seek(0, 2), sha256=digest)


@contextmanager
def writing_shards(out: Path, shard_bytes: int) -> Iterator[ShardWriter]:
    """A writer of a folder of shards, which is there once the block ended well, and replaces an older one.

    Raises:
        BatchError: `out` is something else.
        OSError: it cannot be written.
    """
    _require_replaceable(out)
    with replacing(out) as new:
        new.mkdir()
        yield ShardWriter(new, shard_bytes)


def _require_replaceable(out: Path) -> None:
    if not out.exists():
        return
    held = {p.name for p in out.iterdir()} if out.is_dir() else None
    if held == set():
        return
    if held and INDEX in held:
        index = read_index(out)
        if index.get("schema") == SCHEMA:
            held -= {INDEX} | {s.file for s in ShardIndex.parse(out, index).files}
            if not held:
                return
    raise BatchError(
        f"{out} holds something else than shards, so it is not replaced. Choose another folder, or move it "
        "away."
    )
