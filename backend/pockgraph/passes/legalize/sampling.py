"""`grid_sample` in two and three dimensions: where each output looks, and what it sees there.

The way back is the derivative of these same formulas. They are written so that it is PyTorch's at the
borders, too: a position that was clipped has none.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from .resampling import cubic_weights
from .table import expands

aten = torch.ops.aten

LINEAR, NEAREST, CUBIC = range(3)
ZEROS, BORDER, REFLECTION = range(3)


def _on_axis(at: Tensor, size: int, align_corners: bool) -> Tensor:
    """From -1 … 1 to element numbers."""
    return (at + 1) / 2 * (size - 1) if align_corners else ((at + 1) * size - 1) / 2


def _clipped(at: Tensor, size: int) -> Tensor:
    return torch.where(at <= 0, 0.0, torch.where(at >= size - 1, float(size - 1), at))


def _reflected(at: Tensor, size: int, align_corners: bool) -> Tensor:
    low, span = (0.0, float(size - 1)) if align_corners else (-0.5, float(size))
    if span == 0:
        return torch.zeros_like(at)
    away = at - low
    away = torch.where(away < 0, -away, away)
    turns = torch.floor(away.detach() / span)
    rest = away - turns * span
    return torch.where(torch.remainder(turns, 2) == 0, rest + low, span - rest + low)


def _bounded(at: Tensor, size: int, padding: int, align_corners: bool) -> Tensor:
    if padding == BORDER:
        return _clipped(at, size)
    if padding == REFLECTION:
        return _clipped(_reflected(at, size, align_corners), size)
    return at


def _seen(x: Tensor, places: Sequence[Tensor]) -> Tensor:
    """x [N, C, *size] at whole places [N, *out], zero outside: [N, C, *out]."""
    size = x.shape[2:]
    flat, inside = None, None
    for place, s in zip(places, size):
        number = place.detach().clamp(0, s - 1)
        flat = number if flat is None else flat * s + number
        there = (place >= 0) & (place <= s - 1)
        inside = there if inside is None else inside & there
    assert flat is not None
    assert inside is not None
    index = flat.to(torch.int64).flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)
    values = x.flatten(2).gather(2, index).unflatten(2, flat.shape[1:])
    return torch.where(inside.unsqueeze(1), values, 0.0)


def grid_sample(x: Tensor, grid: Tensor, mode: int, padding: int, align_corners: bool) -> Tensor:
    """x [N, C, *size], grid [N, *out, D] of (…, y, x) from last to first -> [N, C, *out]."""
    size = x.shape[2:]
    at = [_on_axis(g, s, align_corners) for g, s in zip(reversed(grid.unbind(-1)), size)]
    if mode == CUBIC:
        return _cubic(x, at, padding, align_corners)
    at = [_bounded(a, s, padding, align_corners) for a, s in zip(at, size)]
    if mode == NEAREST:
        return _seen(x, [torch.round(a.detach()) for a in at])
    low = [torch.floor(a.detach()) for a in at]
    total = None
    for corner in itertools.product((0, 1), repeat=len(at)):
        weight = None
        for a, f, c in zip(at, low, corner):
            share = a - f if c else f + 1 - a
            weight = share if weight is None else weight * share
        assert weight is not None
        part = _seen(x, [f + c for f, c in zip(low, corner)]) * weight.unsqueeze(1)
        total = part if total is None else total + part
    assert total is not None
    return total


def _cubic(x: Tensor, at: Sequence[Tensor], padding: int, align_corners: bool) -> Tensor:
    """Each of the 16 elements around a position is bounded for itself."""
    low = [torch.floor(a.detach()) for a in at]
    (height, width) = (cubic_weights(a - f) for a, f in zip(at, low))
    total = None
    for i, j in itertools.product(range(4), repeat=2):
        places = [
            _bounded(f + step - 1, s, padding, align_corners) for f, step, s in zip(low, (i, j), x.shape[2:])
        ]
        part = _seen(x, places) * (height[i] * width[j]).unsqueeze(1)
        total = part if total is None else total + part
    assert total is not None
    return total


@expands(aten.grid_sampler_2d.default, aten.grid_sampler_3d.default)
def grid_sampler(x: Tensor, grid: Tensor, mode: int, padding: int, align_corners: bool) -> Tensor:
    return grid_sample(x, grid, mode, padding, align_corners)


@expands(aten.grid_sampler_2d_backward.default, aten.grid_sampler_3d_backward.default)
def grid_sampler_backward(
    dy: Tensor,
    x: Tensor,
    grid: Tensor,
    mode: int,
    padding: int,
    align_corners: bool,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    def sampled(*wanted: Tensor) -> Tensor:
        given = iter(wanted)
        x_, grid_ = (next(given) if m else t for t, m in zip((x, grid), output_mask))
        return grid_sample(x_, grid_, mode, padding, align_corners)

    backward = torch.func.vjp(sampled, *(t for t, m in zip((x, grid), output_mask) if m))[1]
    gradients = iter(backward(dy))
    dx, dgrid = (next(gradients) if m else None for m in output_mask)
    return dx, dgrid
