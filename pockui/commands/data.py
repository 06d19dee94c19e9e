"""`pockui data`: a task's batches as an npz file or shards, for a device that has no Python project."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer

from pockgraph.errors import BatchError, PockError, reason
from pockgraph.files import begins_with, require_kind, write_atomically

from ..info.format import size
from .output import JsonFlag, out, print_json, say, styled
from .tasks_and_plans import TaskArgument

if TYPE_CHECKING:
    from pockgraph.task import Task


SHARD_MB = 64


class Split(StrEnum):
    """The parts of a task's data."""

    TRAIN = "train"
    EVAL = "eval"
    VALIDATION = "validation"


def data(
    task: TaskArgument,
    split: Annotated[
        Split, typer.Option(help="Which part; eval is what is held out for the end.")
    ] = Split.TRAIN,
    out_file: Annotated[
        str, typer.Option("--out", metavar="FILE|FOLDER/", help="The npz file, or a folder of shards.")
    ] = "data.npz",
    shard_mb: Annotated[
        int | None,
        typer.Option(min=1, max=1 << 20, help="Megabytes of a shard; --out is a folder, then."),
    ] = None,
    batches: Annotated[
        int | None, typer.Option(min=1, help="At most so many batches; a stream without end needs it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the order of training samples.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Write a task's data for a device: an array of all samples for each entry of a batch.

    As a file, or, where --out ends with / or --shard-mb is given, as a folder of shards, which is written and
    read a shard at a time. `pockui train --data`, `python -m pockgraph.runtime --data` and --eval read both.
    """
    from ..project import load_task

    as_shards = shard_mb is not None or out_file.endswith(("/", os.sep))
    path = Path(out_file)
    if not as_shards:
        require_kind(path, "npz file", begins_with(b"PK"))
    say(f"Loading {task} …")
    loaded = load_task(task)
    found = _Samples(loaded, split, _batches(loaded, split, batches, seed))
    try:
        if as_shards:
            written = _write_shards(path, found, (shard_mb or SHARD_MB) * 1_000_000)
        else:
            written = _write_npz(path, found)
    except OSError as e:
        raise PockError(f"Cannot write {path}: {reason(e)}. Choose another place with --out.") from None
    if as_json:
        arrays = {n: {"shape": list(shape), "dtype": dtype} for n, (dtype, shape) in written.arrays.items()}
        shards = {"shards": written.shards} if written.shards else {}
        print_json(
            {"file": str(path), "bytes": written.bytes, "split": split.value, **shards, "arrays": arrays}
        )
        return
    held = ", ".join(f"{n} {'×'.join(map(str, shape))} {d}" for n, (d, shape) in written.arrays.items())
    many = f" in {written.shards} shards" if written.shards else ""
    out().print(styled((str(path), "bold"), f": {held}; {size(written.bytes)}{many}."))


class _Written(NamedTuple):
    """What was written: dtype and shape by entry, and of shards how many."""

    arrays: dict[str, tuple[str, tuple[int, ...]]]
    bytes: int
    shards: int = 0


def _write_npz(path: Path, found: _Samples) -> _Written:
    parts = list(found)
    arrays: dict[str, Any] = {
        n: found.whole[n] if n in found.whole else np.concatenate([p[n] for p in parts]) for n in found.names
    }
    file = io.BytesIO()
    np.savez(file, **arrays)
    content = file.getvalue()
    write_atomically(path, content)
    return _Written({n: (str(a.dtype), a.shape) for n, a in arrays.items()}, len(content))


def _write_shards(path: Path, found: _Samples, shard_bytes: int) -> _Written:
    from pockgraph.runtime.data.shard_writer import writing_shards

    with writing_shards(path, shard_bytes) as writer:
        for rows in found:
            writer.add(rows)
        index = writer.finish(found.whole)
    arrays = {
        n: (e.dtype, e.shape if e.shared else (index.samples, *e.shape)) for n, e in index.entries.items()
    }
    return _Written(arrays, sum(s.bytes for s in index.files), len(index.shards))


def _batches(task: Task, split: Split, limit: int | None, seed: int) -> Any:
    from pockgraph.task.data_sources import is_stream

    source = getattr(task, split.value)
    if source is None:
        raise PockError(f"The task {task.name!r} has no {split.value} data. Choose another --split.")
    if limit is None and is_stream(source):
        raise PockError(
            f"The {split.value} data of {task.name!r} may have no end. Say how much: --batches N."
        )
    found = task.epoch(seed) if split is Split.TRAIN else map(task.named, source)
    return islice(found, limit)


class _Samples:
    """A task's batches as arrays of those entries that have samples.

    Attributes:
        names: of all entries.
        whole: the entries without samples: the same in every batch; complete after the first.
    """

    def __init__(self, task: Task, split: Split, batches: Any) -> None:
        import torch

        self._task, self._split, self._batches = task, split, batches
        with torch.no_grad():
            samples = len(task.metric(task.model, task.rebuild(task.example)))
        self.names = list(task.example)
        self.whole: dict[str, np.ndarray] = {}
        self._shared = {n for n, value in task.example.items() if value.shape[:1] != (samples,)}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """The batches.

        Raises:
            BatchError: an entry has another shape, or is no number that numpy knows; there is no batch.
        """
        first: dict[str, np.ndarray] | None = None
        for number, batch in enumerate(self._batches, 1):
            arrays = {name: _array(number, name, value) for name, value in batch.items()}
            first = first or arrays
            for name, array in arrays.items():
                self._require_alike(number, name, array, first[name])
            self.whole = {n: first[n] for n in self.names if n in self._shared}
            yield {n: arrays[n] for n in self.names if n not in self._shared}
        if first is None:
            raise BatchError(f"The {self._split.value} data of {self._task.name!r} gave no batch.")

    def _require_alike(self, number: int, name: str, array: np.ndarray, first: np.ndarray) -> None:
        if name in self._shared:
            if np.array_equal(array, first):
                return
            why = "has other values than in batch 1, and has no samples to be joined by."
        else:
            if array.shape[1:] == first.shape[1:]:
                return
            why = f"is {array.shape}, and {first.shape} in batch 1. Pad all to one length."
        raise BatchError(f"Batch {number} of the {self._split.value} data: {name!r} {why}")


def _array(number: int, name: str, value: Any) -> np.ndarray:
    try:
        return value.detach().cpu().numpy()
    except TypeError:
        raise BatchError(
            f"Batch {number}: {name!r} is {value.dtype}, which no file of arrays holds. Make it float32."
        ) from None
