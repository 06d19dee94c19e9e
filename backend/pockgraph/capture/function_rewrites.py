"""Functions of torch that a step takes in a plainer form, with PyTorch's values.

A sparse gradient is a format: a step adds the same numbers to the same rows. `rrelu` counts as random
wherever it is called, though it draws nothing outside of training. `fill_diagonal_` writes through
`as_strided`, which looks at memory and not at values; diagonals of views write the same. `x[mask] = value`
gathers the gradient of `value` from as many elements as the mask selects; `where` has it with one shape.
`cov` reads the number of observations from a tensor, without weights of them as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
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


def fill_diagonal_(x: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    if x.ndim < 2 or (x.ndim > 2 and len(set(x.shape)) > 1):
        return x.fill_diagonal_(fill_value, wrap)  # which says why not
    rows, columns = x.shape[:2]
    starts = range(0, rows, columns + 1) if wrap and x.ndim == 2 else (0,)
    for start in starts:
        line = x[start : start + columns] if len(starts) > 1 else x
        while line.ndim > 1:
            line = line.diagonal(0, 0, -1)
        line.fill_(fill_value)
    return x


def setitem(x: Tensor, where: Any, value: Any) -> None:
    """`x[…, mask, …] = value` for one mask of booleans and a value for every element that it selects."""
    found = _masked(x, where)
    if found is None:
        return x.__setitem__(where, value)
    view, mask, trailing = found
    if isinstance(value, bool | int | float):
        cut = value if x.is_floating_point() else bool(value) if x.dtype == torch.bool else int(value)
        view.masked_fill_(mask, cut)
        return None
    # The selected elements are one dimension of what is put there, whose size no graph knows.
    if not isinstance(value, Tensor) or (value.ndim > trailing and value.shape[-trailing - 1] != 1):
        return x.__setitem__(where, value)
    if view.ndim < x.ndim and value.ndim:  # integers beside a mask put that dimension first
        return x.__setitem__(where, value)
    if value.ndim > trailing:
        before, after = value.shape[: value.ndim - trailing - 1], value.shape[value.ndim - trailing :]
        value = value.reshape(*before, *[1] * (mask.ndim - trailing), *after)
    view.copy_(torch.where(mask, value.to(x.dtype), view))
    return None


def _masked(x: Tensor, where: Any) -> tuple[Tensor, Tensor, int] | None:
    """An index that holds one mask beside slices and integers: what these select of x; the mask as it is
    broadcast to that; and how many dimensions stand after the masked ones.
    """
    parts = list(where) if isinstance(where, tuple) else [where]
    at = [i for i, p in enumerate(parts) if isinstance(p, Tensor)]
    if len(at) != 1 or parts[at[0]].dtype != torch.bool or not parts[at[0]].ndim:
        return None
    before, mask, after = parts[: at[0]], parts[at[0]], parts[at[0] + 1 :]
    others = [*before, *after]
    integers = [p for p in others if isinstance(p, int) and not isinstance(p, bool)]
    if len(integers) + sum(p is Ellipsis or isinstance(p, slice) for p in others) < len(others):
        return None
    first = x.ndim - mask.ndim - len(after) if Ellipsis in before else len(before)
    if tuple(mask.shape) != tuple(x.shape[first : first + mask.ndim]):
        return None  # PyTorch says why not
    view = x[(*before, *[slice(None)] * mask.ndim, *after)] if others else x
    trailing = x.ndim - first - mask.ndim - sum(isinstance(p, int) for p in after)
    return view, mask.reshape(*mask.shape, *[1] * trailing), trailing


def cov(
    input: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None
) -> Tensor:
    counted = input.shape[-1] if input.ndim else 1
    weighted = fweights is not None or aweights is not None
    if weighted or input.ndim > 2 or counted <= correction or not input.is_floating_point():
        return torch.cov(input, correction=correction, fweights=fweights, aweights=aweights)
    rows = input.reshape(-1, counted)
    centred = rows - rows.mean(1, keepdim=True)
    return (centred @ centred.t() / (counted - correction)).squeeze()


def corrcoef(input: Tensor) -> Tensor:
    covariance = cov(input)
    if not covariance.ndim:
        return covariance / covariance
    deviation = covariance.diagonal().sqrt()
    return (covariance / deviation[:, None] / deviation).clip(-1, 1)


PLAIN: dict[Any, Callable[..., Any]] = {
    F.embedding: _dense(F.embedding),
    F.embedding_bag: _dense(F.embedding_bag),
    F.rrelu: rrelu,
    torch.cov: cov,
    Tensor.cov: cov,
    torch.corrcoef: corrcoef,
    Tensor.corrcoef: corrcoef,
    Tensor.fill_diagonal_: fill_diagonal_,
    Tensor.__setitem__: setitem,
}
