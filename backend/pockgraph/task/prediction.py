"""What a task says of its prediction, checked, and its example batch in other sizes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from ..errors import TaskError
from .batch import Batch, check_entries, rebuilt

if TYPE_CHECKING:
    from .task import Task

MOST = 1 << 20  # samples a batch


def checked_prediction(task: Task) -> tuple[int, ...] | None:
    """The sizes that a task asks for, ascending; None where it leaves them open.

    Raises:
        TaskError: what the task gives of a prediction cannot be one.
    """
    where, sizes = f"Task {task.name!r}", task.predict_sizes
    if task.predict is None:
        for name in ("predict_batch", "predict_sizes"):
            if getattr(task, name) is not None:
                raise TaskError(
                    f"{where}: `{name}` is given, but no `predict` that it is for. Pass a function "
                    f"predict(model, batch) as well, or leave `{name}` out."
                )
        return None
    if not callable(task.predict):
        raise TaskError(
            f"{where}: `predict` is a {type(task.predict).__name__}, which cannot be called. Pass a function "
            "predict(model, batch)."
        )
    if task.predict_batch is not None:
        check_entries(task.name, f"{where}: `predict_batch`", task.predict_batch)
    if sizes is None:
        return None
    if isinstance(sizes, str) or not isinstance(sizes, Iterable):
        raise TaskError(
            f"{where}: predict_sizes={str(sizes)[:40]} must be a tuple of batch sizes, as in (1, 8)."
        )
    found = tuple(sizes)
    wrong = [n for n in found if isinstance(n, bool) or not isinstance(n, int) or not 0 < n <= MOST]
    if wrong or not found:
        said = f"{str(wrong[0])[:40]!r} is no batch size" if wrong else "it is empty"
        raise TaskError(
            f"{where}: predict_sizes={str(found)[:60]}: {said}. Name whole numbers from 1 on, as in (1, 8)."
        )
    return tuple(sorted(set(found)))


def rebuilt_prediction(task: Task, batch: Batch) -> Any:
    """A named batch in the form that the task's `predict` expects."""
    if task.predict_batch is None:
        return task.rebuild(batch)
    return rebuilt(batch, task.predict_batch)


def resized(batch: Batch, samples: int, size: int) -> Batch:
    """A batch with `size` samples: the first ones, from the start again where these are too few.

    Args:
        samples: how many it has; entries of another first dimension have no samples, and stay whole.
    """
    rows = torch.arange(size) % samples
    return {name: v[rows] if v.ndim and len(v) == samples else v for name, v in batch.items()}
