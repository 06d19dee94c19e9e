"""What a task's `predict` may give: one tensor, or a dict of named ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import TaskError
from ..task.batch import UNWRITABLE


def named_results(task: str, result: Any) -> dict[str, Tensor]:
    """A dict of tensors as it is.

    Raises:
        TaskError: it is none, is empty, or has names that no file can hold.
    """
    where = f"Task {task!r}: `predict(model, batch)`"
    if not isinstance(result, Mapping):
        raise TaskError(
            f"{where} gives a {type(result).__name__}, and must give a tensor or a dict of named tensors. "
            'Name its parts, as in {"logits": logits}.'
        )
    if not result:
        raise TaskError(f"{where} gives an empty dict. Return at least one tensor.")
    for name, value in result.items():
        if not isinstance(name, str) or not name or UNWRITABLE.search(name):
            raise TaskError(
                f"{where} gives a tensor with the name {str(name)[:40]!r}, and names are texts that a file "
                "can hold. Give it another one."
            )
        if not isinstance(value, Tensor):
            raise TaskError(
                f"{where} gives {name!r} as a {type(value).__name__}, and must give tensors. Convert it, or "
                "leave it out."
            )
    return dict(result)
