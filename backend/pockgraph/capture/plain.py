"""Functions of torch that a step takes in a plainer form, with PyTorch's values.

A sparse gradient is a format: a step adds the same numbers to the same rows. `rrelu` counts as random
wherever it is called, though it draws nothing outside of training.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F


def _dense(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    signature = inspect.signature(function)

    def called(*args: Any, **kwargs: Any) -> Tensor:
        given = signature.bind(*args, **kwargs)
        given.arguments["sparse"] = False
        return function(*given.args, **given.kwargs)

    called.__name__ = function.__name__
    return called


def rrelu(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    if training:
        return F.rrelu(input, lower, upper, training, inplace)
    return F.leaky_relu(input, (lower + upper) / 2, inplace)


PLAIN: dict[Any, Callable[..., Any]] = {
    F.embedding: _dense(F.embedding),
    F.embedding_bag: _dense(F.embedding_bag),
    F.rrelu: rrelu,
}
