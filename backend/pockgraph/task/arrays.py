"""What people keep samples in (numpy, torch, pandas, lists) as arrays that batches can be cut from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from ..errors import TaskError, reason
from ..runtime.batch import by_name

NUMBERS = "biufc"  # numpy's kinds of dtype


def tensor_of(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    """The array as a tensor; it shares memory where torch can and may write to it.

    Raises:
        TypeError: numbers that torch does not know.
    """
    if isinstance(array, torch.Tensor):
        return array
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = np.array(array, order="C")
    return torch.as_tensor(array)


def columns_of(given: Any) -> dict[str, Any]:
    """Name -> array `[N, …]` of a mapping, a data frame, a tuple of arrays or a `TensorDataset`.

    The items of a tuple are named `0`, `1`, …; a frame's columns keep their names.

    Raises:
        TaskError: what cannot become an array of numbers, by name.
    """
    if isinstance(given, TensorDataset):
        given = given.tensors
    if isinstance(given, Mapping):
        items = given.items()
    elif isinstance(given, tuple | list):
        items = enumerate(given)
    elif hasattr(given, "columns") and hasattr(given, "to_numpy"):
        items = ((name, given[name]) for name in given.columns)
    else:
        dataset = hasattr(given, "__getitem__") and not hasattr(given, "dtype")
        raise TaskError(
            f"Batches takes arrays by name, as in {{'x': x, 'y': y}}, and not a {type(given).__name__}."
            + (" For a Dataset, give the task a DataLoader(dataset, batch_size=…, drop_last=True)." * dataset)
        )
    columns = {name: _column(name, value) for name, value in by_name(items, TaskError).items()}
    if not columns:
        raise TaskError("Batches has no arrays. Give it at least one, as in {'x': x, 'y': y}.")
    return columns


def _column(name: str, value: Any) -> np.ndarray | torch.Tensor:
    kind = type(value).__name__
    try:
        if hasattr(value, "to_numpy"):
            value = value.to_numpy()
        elif isinstance(value, list | tuple | range):
            value = _stacked(list(value))
        if not isinstance(value, torch.Tensor):
            value = np.asanyarray(value)
            if value.dtype.kind in NUMBERS:
                tensor_of(value[:0] if value.ndim else value)
    except (TypeError, ValueError, RuntimeError) as e:
        raise TaskError(
            f"Batches: {name!r} ({kind}) cannot become an array: {reason(e)}. Give an array of numbers."
        ) from None
    if isinstance(value, np.ndarray) and value.dtype.kind not in NUMBERS:
        raise TaskError(
            f"Batches: {name!r} ({kind}) holds {value.dtype}, which is not numbers. Encode it as numbers."
        )
    if not value.ndim:
        raise TaskError(f"Batches: {name!r} is a single number. Give one value a sample.")
    return value


def _stacked(items: list[Any]) -> np.ndarray | torch.Tensor:
    if items and all(isinstance(i, torch.Tensor) for i in items):
        return torch.stack(items)
    if items and all(isinstance(i, np.ndarray | np.generic) for i in items):
        return np.stack(items)
    return torch.as_tensor(items)  # Python's numbers, as torch takes them: float32 and int64
