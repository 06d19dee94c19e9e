"""Views, slices and their gradients, where PyTorch's own decompositions do not serve."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .table import expands

aten = torch.ops.aten


def dilated(x: Tensor, dim: int, step: int) -> Tensor:
    """`step - 1` zeros after each element along `dim`: its size grows by the factor `step`."""
    if step == 1:
        return x
    after = [0, 0] * (x.ndim - 1 - dim) + [0, step - 1]
    return F.pad(x.unsqueeze(dim + 1), after).flatten(dim, dim + 1)


def _placed(x: Tensor, size: Sequence[int], dim: int, start: int, step: int) -> Tensor:
    """Zeros of `size` with `x` at `start, start + step, …` along `dim`."""
    x = dilated(x, dim, step)
    x = x.narrow(dim, 0, min(x.shape[dim], size[dim] - start))  # the zeros after the last one may stick out
    return F.pad(x, [*[0, 0] * (len(size) - 1 - dim), start, size[dim] - start - x.shape[dim]])


@expands(aten.slice_backward.default)
def slice_backward(dy: Tensor, size: Sequence[int], dim: int, start: int, end: int, step: int) -> Tensor:
    """PyTorch's decomposition writes into zeros, which runtimes lack."""
    dim %= len(size)
    if not dy.numel():
        return dy.new_zeros(size)
    return _placed(dy, size, dim, slice(start, end).indices(size[dim])[0], step)


@expands(aten.select_backward.default)
def select_backward(dy: Tensor, size: Sequence[int], dim: int, index: int) -> Tensor:
    """As `slice_backward`."""
    dim %= len(size)
    return _placed(dy.unsqueeze(dim), size, dim, index % size[dim], 1)


@expands(aten.slice_scatter.default)
def slice_scatter(
    x: Tensor, source: Tensor, dim: int, start: int | None, end: int | None, step: int
) -> Tensor:
    """With a step; without one a graph has it as `cat` from capture on."""
    places = torch.arange(*slice(start, end, step).indices(x.shape[dim]))
    return x.index_copy(dim, places, source.to(x.dtype).expand(_resized(x, dim, len(places))))


def _resized(x: Tensor, dim: int, size: int) -> list[int]:
    return [size if d == dim % x.ndim else s for d, s in enumerate(x.shape)]


@expands(aten.narrow_copy.default)
def narrow_copy(x: Tensor, dim: int, start: int, length: int) -> Tensor:
    return x.narrow(dim, start, length)


@expands(aten.unbind.int)
def unbind(x: Tensor, dim: int) -> list[Tensor]:
    """PyTorch's decomposition takes each slice on its own."""
    return [part.squeeze(dim) for part in x.split(1, dim)]


@expands(aten.roll.default)
def roll(x: Tensor, shifts: Sequence[int], dims: Sequence[int]) -> Tensor:
    """PyTorch's decomposition gathers."""
    if not dims:
        return roll(x.flatten(), shifts, [0]).reshape(x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        size = x.shape[dim]
        at = -shift % max(size, 1)
        if at:
            x = torch.cat([x.narrow(dim, at, size - at), x.narrow(dim, 0, at)], dim)
    return x
