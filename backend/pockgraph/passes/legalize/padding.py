"""Padding with what lies inside. Its way back adds a border's gradient to what it was copied from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .table import expands

aten = torch.ops.aten


def _borders(x: Tensor, amounts: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(dimension, before, after), as `F.pad` counts them: the last dimension first."""
    for i in range(len(amounts) // 2):
        yield x.ndim - 1 - i, amounts[2 * i], amounts[2 * i + 1]


def _inner(dy: Tensor, dim: int, before: int, after: int) -> Tensor:
    """A gradient without its borders; zeros where a negative amount had cut something off."""
    size = dy.shape[dim] - max(before, 0) - max(after, 0)
    inner = dy.narrow(dim, max(before, 0), size)
    at = [0, 0] * (dy.ndim - 1 - dim)
    return F.pad(inner, [*at, max(-before, 0), max(-after, 0)]) if min(before, after) < 0 else inner


def _added(x: Tensor, part: Tensor, dim: int, start: int) -> Tensor:
    """x with `part` added from `start` on."""
    after = x.shape[dim] - start - part.shape[dim]
    return x + F.pad(part, [*[0, 0] * (x.ndim - 1 - dim), start, after])


@expands(aten.reflection_pad1d.default, aten.reflection_pad2d.default, aten.reflection_pad3d.default)
def reflection_pad(x: Tensor, amounts: Sequence[int]) -> Tensor:
    for dim, before, after in _borders(x, amounts):
        size = x.shape[dim]
        parts = [_cut(x, dim, before, after)]
        if before > 0:
            parts.insert(0, x.narrow(dim, 1, before).flip(dim))
        if after > 0:
            parts.append(x.narrow(dim, size - 1 - after, after).flip(dim))
        x = torch.cat(parts, dim)
    return x


@expands(
    aten.reflection_pad1d_backward.default,
    aten.reflection_pad2d_backward.default,
    aten.reflection_pad3d_backward.default,
)
def reflection_pad_backward(dy: Tensor, x: Tensor, amounts: Sequence[int]) -> Tensor:
    for dim, before, after in _borders(x, amounts):
        size, end = x.shape[dim], dy.shape[dim]
        dx = _inner(dy, dim, before, after)
        if before > 0:
            dx = _added(dx, dy.narrow(dim, 0, before).flip(dim), dim, 1)
        if after > 0:
            dx = _added(dx, dy.narrow(dim, end - after, after).flip(dim), dim, size - 1 - after)
        dy = dx
    return dy


@expands(aten.replication_pad1d.default, aten.replication_pad2d.default, aten.replication_pad3d.default)
def replication_pad(x: Tensor, amounts: Sequence[int]) -> Tensor:
    for dim, before, after in _borders(x, amounts):
        size = x.shape[dim]
        parts = [_cut(x, dim, before, after)]
        if before > 0:
            parts.insert(0, _repeated(x.narrow(dim, 0, 1), dim, before))
        if after > 0:
            parts.append(_repeated(x.narrow(dim, size - 1, 1), dim, after))
        x = torch.cat(parts, dim)
    return x


@expands(
    aten.replication_pad1d_backward.default,
    aten.replication_pad2d_backward.default,
    aten.replication_pad3d_backward.default,
)
def replication_pad_backward(dy: Tensor, x: Tensor, amounts: Sequence[int]) -> Tensor:
    for dim, before, after in _borders(x, amounts):
        size, end = x.shape[dim], dy.shape[dim]
        dx = _inner(dy, dim, before, after)
        if before > 0:
            dx = _added(dx, dy.narrow(dim, 0, before).sum(dim, keepdim=True), dim, 0)
        if after > 0:
            dx = _added(dx, dy.narrow(dim, end - after, after).sum(dim, keepdim=True), dim, size - 1)
        dy = dx
    return dy


def _cut(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    start, stop = max(-before, 0), x.shape[dim] - max(-after, 0)
    return x.narrow(dim, start, stop - start)


def _repeated(x: Tensor, dim: int, times: int) -> Tensor:
    return x.expand([times if d == dim else -1 for d in range(x.ndim)])
