"""Reductions over axes, which are an attribute at first and an input later."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .operator_rules import only, op
from .ops_shape import as_ints

Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _prod(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    for d in sorted((d % x.ndim for d in dims), reverse=True):
        x = torch.prod(x, d, keepdim)
    return x


# Operator -> forms with the axes as an attribute, forms with an input, what it does.
REDUCTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Reduce]] = {
    "ReduceL1": ((1, 11, 13), (18,), lambda x, d, k: x.abs().sum(d, k)),
    "ReduceL2": ((1, 11, 13), (18,), lambda x, d, k: x.square().sum(d, k).sqrt()),
    "ReduceLogSum": ((1, 11, 13), (18,), lambda x, d, k: x.sum(d, k).log()),
    "ReduceLogSumExp": ((1, 11, 13), (18,), lambda x, d, k: torch.logsumexp(x, d, k)),
    "ReduceMax": ((1, 11, 12, 13), (18, 20), lambda x, d, k: torch.amax(x, d, k)),
    "ReduceMean": ((1, 11, 13), (18,), lambda x, d, k: x.mean(d, k)),
    "ReduceMin": ((1, 11, 12, 13), (18, 20), lambda x, d, k: torch.amin(x, d, k)),
    "ReduceProd": ((1, 11, 13), (18,), _prod),
    "ReduceSum": ((1, 11), (13,), lambda x, d, k: x.sum(d, k)),
    "ReduceSumSquare": ((1, 11, 13), (18,), lambda x, d, k: x.square().sum(d, k)),
}


def _register(plain: Reduce) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    def reduce(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
        y = plain(x, dims, keepdim)
        return y if y.dtype == x.dtype else y.to(x.dtype)  # PyTorch adds int32 up as int64

    def by_attribute(x: Tensor, *, axes: Sequence[int] | None = None, keepdims: int = 1) -> Tensor:
        return reduce(x, list(axes) if axes else list(range(x.ndim)), bool(keepdims))

    def by_input(
        x: Tensor, axes: np.ndarray | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Tensor:
        dims = as_ints(axes) if axes is not None else []
        if not dims and noop_with_empty_axes:
            return reduce(x.unsqueeze(-1), [-1], False)  # each element alone: its absolute value, its square
        return reduce(x, dims or list(range(x.ndim)), bool(keepdims))

    return by_attribute, by_input


for _name, (_old, _new, _reduce) in REDUCTIONS.items():
    _by_attribute, _by_input = _register(_reduce)
    op(_name, *_old)(_by_attribute)
    op(_name, *_new, host=("axes",))(_by_input)


@op("ArgMax", 1, 11, 12, 13, check=only(select_last_index=0))
def argmax(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return torch.argmax(x, axis, bool(keepdims))


@op("ArgMin", 1, 11, 12, 13, check=only(select_last_index=0))
def argmin(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return torch.argmin(x, axis, bool(keepdims))
