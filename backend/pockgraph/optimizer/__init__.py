"""Optimizers as graph nodes: each says how one tensor is updated, in terms of ATen operators.

Not here: optimizers of eager PyTorch; those that the steps are compared with are in `parity/`.

The update is part of the training graph, so that it can be scheduled right after its gradient,
fused, and exists only for what a plan trains. Formulas and defaults are torch.optim's.

One optimizer a file; `base.py` holds what all share, `updates.py` builds the update phase of a graph:
accumulation, clipping, the optimizer's rule, and the average of the weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..errors import TaskError, suggest
from .adafactor import Adafactor
from .adam import Adam, AdamW
from .base import ACCUMULATED, MICRO_STEP, Base, Group, Optimizer, State, check_groups
from .lion import Lion
from .sgd import SGD

__all__ = [
    "ACCUMULATED", "MICRO_STEP", "OPTIMIZERS", "SGD", "Adafactor", "Adam", "AdamW", "Base", "Group",
    "Lion", "Optimizer", "State", "check_groups", "optimizer_from_dict",
]  # fmt: skip

OPTIMIZERS: dict[str, type[Base]] = {cls.name: cls for cls in (SGD, Adam, AdamW, Lion, Adafactor)}


def optimizer_from_dict(data: Mapping[str, Any]) -> Optimizer:
    """The optimizer that a plan describes: what `Optimizer.to_dict` gave.

    Raises:
        TaskError: an unknown optimizer, option or option of a group, with suggestions; or a value that
            an option cannot have.
    """
    options = dict(data)
    name = str(options.pop("name", ""))
    cls = OPTIMIZERS.get(name)
    if cls is None:
        raise TaskError(
            f"Unknown optimizer {name!r}; known are {', '.join(OPTIMIZERS)}.{suggest(name, OPTIMIZERS)}"
        )
    known = list(inspect.signature(cls).parameters)
    for option in options:
        if option not in known:
            raise TaskError(f"{cls.__name__} has no option {option!r}.{suggest(option, known)}")
    if "groups" in options:
        given = options["groups"]
        if not isinstance(given, list | tuple):
            raise TaskError(f"{cls.__name__}: groups is a list of groups, not {given!r}.")
        options["groups"] = tuple(Group.from_dict(g) for g in given)
    frozen: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    return cls(**frozen)  # pyright: ignore[reportReturnType]
