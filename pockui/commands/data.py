"""`pockui data`: a task's batches as an npz file, for a device that has no Python project."""

from __future__ import annotations

import io
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from pockgraph.errors import BatchError, PockError, reason

from ..info.format import size
from .output import JsonFlag, out, print_json, say, styled
from .tasks_and_plans import TaskArgument

if TYPE_CHECKING:
    from pockgraph.task import Task


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
    out_file: Annotated[Path, typer.Option("--out", help="The npz file.")] = Path("data.npz"),
    batches: Annotated[
        int | None, typer.Option(min=1, help="At most so many batches; a stream without end needs it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the order of training samples.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Write a task's data as a file: an array of all samples for each entry of a batch.

    `pockui train --data`, `python -m pockgraph.runtime --data` and --eval read it.
    """
    from pockgraph.files import begins_with, require_kind, write_atomically

    from ..project import load_task

    require_kind(out_file, "npz file", begins_with(b"PK"))
    say(f"Loading {task} …")
    loaded = load_task(task)
    arrays = _joined(loaded, _batches(loaded, split, batches, seed), split)
    written, named = io.BytesIO(), dict[str, Any](arrays)
    np.savez(written, **named)
    try:
        write_atomically(out_file, written.getvalue())
    except OSError as e:
        raise PockError(f"Cannot write {out_file}: {reason(e)}. Choose another place with --out.") from None
    nbytes = len(written.getvalue())
    if as_json:
        shapes = {name: {"shape": list(a.shape), "dtype": str(a.dtype)} for name, a in arrays.items()}
        print_json({"file": str(out_file), "bytes": nbytes, "split": split.value, "arrays": shapes})
        return
    held = ", ".join(f"{name} {'×'.join(map(str, a.shape))} {a.dtype}" for name, a in arrays.items())
    out().print(styled((str(out_file), "bold"), f": {held}; {size(nbytes)}."))


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


def _joined(task: Task, batches: Any, split: Split) -> dict[str, np.ndarray]:
    """All samples by entry; an entry that is none of samples is the same in every batch, and stands once.

    Raises:
        BatchError: an entry has another shape, or is no number that numpy knows.
    """
    import torch

    with torch.no_grad():
        samples = len(task.metric(task.model, task.rebuild(task.example)))
    whole = {name for name, value in task.example.items() if value.shape[:1] != (samples,)}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in task.example}
    for number, batch in enumerate(batches, 1):
        for name, value in batch.items():
            try:
                array = value.detach().cpu().numpy()
            except TypeError:
                raise BatchError(
                    f"Batch {number}: {name!r} is {value.dtype}, which no npz file holds. Make it float32."
                ) from None
            known = parts[name]
            same = not known or (
                np.array_equal(array, known[0]) if name in whole else array.shape[1:] == known[0].shape[1:]
            )
            if not same:
                why = (
                    "has other values than in batch 1, and has no samples to be joined by."
                    if name in whole
                    else f"is {array.shape}, and {known[0].shape} in batch 1. Pad all to one length."
                )
                raise BatchError(f"Batch {number} of the {split.value} data: {name!r} {why}")
            if not known or name not in whole:
                known.append(array)
    if not all(parts.values()):
        raise BatchError(f"The {split.value} data of {task.name!r} gave no batch.")
    return {name: found[0] if name in whole else np.concatenate(found) for name, found in parts.items()}
