"""One batch: names and tensors, checked against the example."""

from __future__ import annotations

import copy
import re
from collections import UserDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import TaskError, listing
from ..runtime.batch import by_name
from .arrays import tensor_of

Batch = dict[str, torch.Tensor]


# What XML, OpenVINO's format, cannot hold: control characters, and halves of surrogate pairs.
UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def nonfinite_entries(example: Batch) -> tuple[str, ...]:
    """The entries of a task's first batch that hold NaN or infinite values, and so may in others."""
    return tuple(name for name, value in example.items() if not bool(value.isfinite().all()))


def as_named(batch: Any) -> Batch:
    """A batch (dict, tuple or list of tensors) as name -> tensor.

    Raises:
        TaskError: the batch holds something that is not a tensor or array, or is one itself.
    """
    if not isinstance(batch, Mapping | tuple | list):
        raise TaskError(
            f"A batch must be a dict or tuple of tensors, but the data gives a {type(batch).__name__}. "
            'Name its parts, as in {"x": x, "y": y}.'
        )
    items = batch.items() if isinstance(batch, Mapping) else enumerate(batch)
    named: Batch = {}
    for key, value in by_name(items, TaskError).items():
        if not isinstance(value, torch.Tensor | np.ndarray):
            remedy = "Convert it, or leave it out of the batch."
            if isinstance(value, Mapping | tuple | list):
                remedy = (
                    "Make its tensors entries of their own, put together in the loss and the metric, or "
                    "leave it out."
                )
            raise TaskError(f"A batch must hold tensors; {key!r} is of type {type(value).__name__}. {remedy}")
        if isinstance(value, torch.Tensor):
            _check_dense(key, value)
        try:
            named[key] = tensor_of(value)
        except TypeError:
            raise TaskError(
                f"A batch must hold numbers; {key!r} is an array of {value.dtype}. Encode it as numbers."
            ) from None
    return named


def _check_dense(key: str, value: torch.Tensor) -> None:
    """Refuse tensors that no array of numbers stands for."""
    if value.is_nested:
        wrong, do = "is a nested tensor", "Pad it, and pass the lengths or a mask beside it"
    elif value.layout is not torch.strided:
        wrong, do = "is sparse", "Pass its .to_dense(), or its indices and values as entries of their own"
    elif value.device.type != "cpu":
        wrong, do = f"is on {value.device}", "A step is made on the CPU: pass its .cpu()"
    else:
        return
    raise TaskError(f"A batch must hold dense tensors; {key!r} {wrong}. {do}.")


def check_name(task: str, name: str, what: str, do: str) -> None:
    """Refuse what the files of an artefact or a study cannot hold.

    Raises:
        TaskError: with what to `do`.
    """
    if found := UNWRITABLE.search(name):
        raise TaskError(
            f"Task {task!r}: {what} {name!r} holds the character {found[0]!r}, which cannot be "
            f"written to a file. {do}."
        )


def check_entries(task: str, what: str, batch: Any, hint: str = "") -> None:
    """Refuse a batch that is none, or has entries that no file can name.

    Args:
        what: which one, as the beginning of a sentence; hint: its end, where the batch is none.

    Raises:
        TaskError: with what to do.
    """
    try:
        named = as_named(batch)
    except TaskError as e:
        raise TaskError(f"{what}: {e}{hint}") from None
    for key in named:
        check_name(task, key, "the batch entry", "Give it another key")
    if "" in named:
        raise TaskError(f"{what}: a batch entry has an empty name. Give it a key, as in {{'x': x}}.")
    if any(v.ndim and not len(v) for v in named.values()):
        raise TaskError(f"{what}: its first batch has no samples. Leave empty batches out.")


def hint(data: Any) -> str:
    """What was probably meant, when the first batch is none."""
    if isinstance(data, Mapping | torch.Tensor | np.ndarray) or hasattr(data, "to_numpy"):
        return " These look like whole arrays: pockgraph.Batches(…, batch_size=…) makes batches of them."
    if isinstance(data, Dataset) or hasattr(data, "column_names"):
        return " A Dataset gives single samples: wrap it in a DataLoader(…, batch_size=…, drop_last=True)."
    return ""


def rebuilt(batch: Batch, first: Any) -> Any:
    """A named batch in the form of the task's first one: a dict, a tuple, or what reads like either.

    Of these are named tuples, and dicts whose entries are attributes, too, as tokenizers give them.
    """
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*batch.values())
    if not isinstance(first, Mapping):
        return tuple(batch.values())
    if isinstance(first, UserDict):
        like = copy.copy(first)
        like.data = dict(batch)
        return like
    return batch


def check_batch(batch: Batch, example: Batch, what: str = "a batch") -> None:
    """Refuse a batch whose names, shapes or dtypes are not the example's.

    Args:
        what: which one, for people.

    Raises:
        TaskError: with every difference.
    """
    wrong = [f"{k!r} is missing" for k in example if k not in batch]
    wrong += [f"{k!r} is unexpected" for k in batch if k not in example]
    wrong += [
        f"{k!r} is {tuple(batch[k].shape)} {batch[k].dtype}, the first batch had {tuple(v.shape)} {v.dtype}"
        for k, v in example.items()
        if k in batch and (batch[k].shape != v.shape or batch[k].dtype != v.dtype)
    ]
    if wrong:
        most = [max((len(v) for v in b.values() if v.ndim), default=0) for b in (batch, example)]
        short = most[0] < most[1]
        remedy = "Drop it (drop_last=True in a DataLoader) or pad it" if short else "Drop or pad the odd one"
        raise TaskError(f"Batches must all have one shape: in {what}, {listing(wrong)}. {remedy}.")
