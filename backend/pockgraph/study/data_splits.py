"""Which data a run was trained and judged on, as a few numbers that tell two splits apart."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from ..task import Batches, Task
from ..task.arrays import tensor_of
from ..task.batch import Batch, as_named
from ..task.data_sources import beginning_of, count_of, is_stream
from .records import DataSplit

LOOKED_AT = 64  # samples of `Batches` that go into a fingerprint
FINGERPRINT_BYTES = 8


def splits_of(task: Task, validation_batches: int | None = None) -> dict[str, DataSplit]:
    """`"train"`, `"validation"` (where the task has some) and `"test"` -> its identity.

    Args:
        validation_batches: at most so many are used.
    """
    found = {"train": split_of(task.train), "test": split_of(task.eval)}
    if task.validation is not None:
        found["validation"] = split_of(task.validation, validation_batches)
    return found


def split_of(data: Any, limit: int | None = None) -> DataSplit:
    """The identity of some batches.

    Args:
        limit: at most so many are used.
    """
    if isinstance(data, Batches):
        batches = len(data) if limit is None else min(len(data), limit)
        return DataSplit(batches, batches * data.batch_size, _fingerprint(_samples_of(data)))
    if is_stream(data):
        return DataSplit(limit, None, "")
    looks = {_fingerprint(as_named(batch)) for _ in range(2) for batch in beginning_of(data)}
    return DataSplit(count_of(data, limit), None, looks.pop() if len(looks) == 1 else "")


def _samples_of(data: Batches) -> Batch:
    """A few samples, evenly spread, as they lie in memory."""
    at = np.linspace(0, data.samples - 1, min(data.samples, LOOKED_AT)).astype(int)
    rows = at if data.rows is None else data.rows[at]
    return {name: tensor_of(array[rows]) for name, array in data.arrays.items()}


def _fingerprint(values: Batch) -> str:
    digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
    for name, value in sorted(values.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        if value.numel():
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
