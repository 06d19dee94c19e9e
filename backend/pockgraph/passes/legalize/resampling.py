"""Resizing along any number of dimensions, by one matrix of `window_matrices` each.

Matrices too large to be stored become gathers of the elements that take part, and the way back sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..optimize.fold_constants import FOLD_LIMIT_BYTES
from .table import Inexpansible, expands
from .window_matrices import exact_nearest_matrix, linear_matrix, nearest_matrix

aten = torch.ops.aten

# (size, out, scale) -> for each of the elements that an output is made of: indices [out], weights [out]
Taps = Callable[[int, int, float | None], list[tuple[Tensor, Tensor]]]


def along(x: Tensor, dim: int, matrix: Tensor) -> Tensor:
    """x with `matrix` [out, in] applied to its dimension `dim`."""
    moved = x.movedim(dim, -1)
    return (moved @ matrix.to(x.dtype).T).movedim(-1, dim)


def _is_small(size: int, out: int) -> bool:
    return 4 * size * out <= FOLD_LIMIT_BYTES


def _resized(
    x: Tensor, out: Sequence[int], scales: Sequence[float | None], matrix: Callable[..., Tensor], taps: Taps
) -> Tensor:
    for dim, (o, scale) in enumerate(zip(out, scales), start=x.ndim - len(out)):
        size = x.shape[dim]
        if _is_small(size, o):
            x = along(x, dim, matrix(size, o, scale))
            continue
        shape = [o if d == dim else 1 for d in range(x.ndim)]
        x = sum(x.index_select(dim, i) * w.view(shape) for i, w in taps(size, o, scale))  # pyright: ignore
    return x


def _back(
    dy: Tensor, size: Sequence[int], scales: Sequence[float | None], matrix: Callable[..., Tensor], taps: Taps
) -> Tensor:
    for dim, (s, scale) in enumerate(zip(size[2:], scales), start=2):
        o = dy.shape[dim]
        if _is_small(s, o):
            dy = along(dy, dim, matrix(s, o, scale).T)
            continue
        shape = [o if d == dim else 1 for d in range(dy.ndim)]
        total = dy.new_zeros([s if d == dim else n for d, n in enumerate(dy.shape)])
        for i, w in taps(s, o, scale):
            total = total.index_add(dim, i, dy * w.view(shape))
        dy = total
    return dy


def _at(size: int, out: int, scale: float | None, align_corners: bool = False) -> Tensor:
    """Where the outputs lie on the axis of the inputs, [out]."""
    to = torch.arange(out, dtype=torch.float32)
    if align_corners:
        return to * ((size - 1) / (out - 1) if out > 1 else 0.0)
    return (to + 0.5) * (1 / scale if scale else size / out) - 0.5


# ---------------------------------------------------------------- nearest


def _nearest(kind: Any, matrix: Callable[..., Tensor]) -> tuple[Callable[..., Tensor], Taps]:
    def taps(size: int, out: int, scale: float | None) -> list[tuple[Tensor, Tensor]]:
        numbers = torch.arange(size, dtype=torch.float32)[None, None]
        return [(kind(numbers, [out], scale)[0, 0].to(torch.int64), torch.ones(out))]

    return matrix, taps


NEAREST = _nearest(aten.upsample_nearest1d.default, nearest_matrix)
EXACT = _nearest(aten._upsample_nearest_exact1d.default, exact_nearest_matrix)


@expands(aten.upsample_nearest1d.default, aten.upsample_nearest3d.default)
def upsample_nearest(x: Tensor, out: Sequence[int], *scales: float | None) -> Tensor:
    return _resized(x, out, scales, *NEAREST)


@expands(aten.upsample_nearest1d_backward.default, aten.upsample_nearest3d_backward.default)
def upsample_nearest_backward(dy: Tensor, out: Any, size: Sequence[int], *scales: float | None) -> Tensor:
    return _back(dy, size, scales, *NEAREST)


@expands(
    aten._upsample_nearest_exact1d.default,
    aten._upsample_nearest_exact2d.default,
    aten._upsample_nearest_exact3d.default,
)
def upsample_nearest_exact(x: Tensor, out: Sequence[int], *scales: float | None) -> Tensor:
    return _resized(x, out, scales, *EXACT)


@expands(
    aten._upsample_nearest_exact1d_backward.default,
    aten._upsample_nearest_exact2d_backward.default,
    aten._upsample_nearest_exact3d_backward.default,
)
def upsample_nearest_exact_backward(
    dy: Tensor, out: Any, size: Sequence[int], *scales: float | None
) -> Tensor:
    return _back(dy, size, scales, *EXACT)


# ---------------------------------------------------------------- linear


def _linear(align_corners: bool) -> tuple[Callable[..., Tensor], Taps]:
    def matrix(size: int, out: int, scale: float | None) -> Tensor:
        return linear_matrix(size, out, scale, align_corners)

    def taps(size: int, out: int, scale: float | None) -> list[tuple[Tensor, Tensor]]:
        at = _at(size, out, scale, align_corners).clamp_min(0)
        low = at.floor().clamp_max(size - 1)
        share = (at - low).clamp(0, 1)
        high = (low + 1).clamp_max(size - 1)
        return [(low.to(torch.int64), 1 - share), (high.to(torch.int64), share)]

    return matrix, taps


@expands(aten.upsample_linear1d.default, aten.upsample_trilinear3d.default)
def upsample_linear(x: Tensor, out: Sequence[int], align_corners: bool, *scales: float | None) -> Tensor:
    return _resized(x, out, scales, *_linear(align_corners))


@expands(aten.upsample_linear1d_backward.default, aten.upsample_trilinear3d_backward.default)
def upsample_linear_backward(
    dy: Tensor, out: Any, size: Sequence[int], align_corners: bool, *scales: float | None
) -> Tensor:
    return _back(dy, size, scales, *_linear(align_corners))


# ---------------------------------------------------------------- cubic

CUBIC = -0.75  # PyTorch's parameter of the kernel


def cubic_weights(t: Tensor) -> list[Tensor]:
    """Of the four elements around a position that lies `t` after the second."""
    a = CUBIC

    def near(x: Tensor) -> Tensor:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Tensor) -> Tensor:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def _cubic(align_corners: bool) -> tuple[Callable[..., Tensor], Taps]:
    def taps(size: int, out: int, scale: float | None) -> list[tuple[Tensor, Tensor]]:
        at = _at(size, out, scale, align_corners)
        low = at.floor()
        return [
            ((low + i - 1).clamp(0, size - 1).to(torch.int64), w)
            for i, w in enumerate(cubic_weights(at - low))
        ]

    def matrix(size: int, out: int, scale: float | None) -> Tensor:
        numbers = torch.arange(size)
        return sum((i[:, None] == numbers) * w[:, None] for i, w in taps(size, out, scale))  # pyright: ignore

    return matrix, taps


@expands(aten.upsample_bicubic2d.default)
def upsample_bicubic(x: Tensor, out: Sequence[int], align_corners: bool, *scales: float | None) -> Tensor:
    return _resized(x, out, scales, *_cubic(align_corners))


@expands(aten.upsample_bicubic2d_backward.default)
def upsample_bicubic_backward(
    dy: Tensor, out: Any, size: Sequence[int], align_corners: bool, *scales: float | None
) -> Tensor:
    return _back(dy, size, scales, *_cubic(align_corners))


# ---------------------------------------------------------------- with antialiasing


def _smoothed(kind: Any, align_corners: bool) -> tuple[Callable[..., Tensor], Taps]:
    def matrix(size: int, out: int, scale: float | None) -> Tensor:
        # The second dimension keeps its size, and its numbers.
        return kind(torch.eye(size)[None, None], [size, out], align_corners, None, scale)[0, 0].T

    def taps(size: int, out: int, scale: float | None) -> list[tuple[Tensor, Tensor]]:
        raise Inexpansible(
            f"resizing {size} to {out} with antialias=True takes a matrix that is too large to store. "
            "Resize in two steps, or when the data is loaded"
        )

    return matrix, taps


@expands(aten._upsample_bilinear2d_aa.default)
def bilinear_aa(x: Tensor, out: Sequence[int], align_corners: bool, *scales: float | None) -> Tensor:
    return _resized(x, out, scales, *_smoothed(aten._upsample_bilinear2d_aa.default, align_corners))


@expands(aten._upsample_bilinear2d_aa_backward.default)
def bilinear_aa_backward(
    dy: Tensor, out: Any, size: Sequence[int], align_corners: bool, *scales: float | None
) -> Tensor:
    return _back(dy, size, scales, *_smoothed(aten._upsample_bilinear2d_aa.default, align_corners))


@expands(aten._upsample_bicubic2d_aa.default)
def bicubic_aa(x: Tensor, out: Sequence[int], align_corners: bool, *scales: float | None) -> Tensor:
    return _resized(x, out, scales, *_smoothed(aten._upsample_bicubic2d_aa.default, align_corners))


@expands(aten._upsample_bicubic2d_aa_backward.default)
def bicubic_aa_backward(
    dy: Tensor, out: Any, size: Sequence[int], align_corners: bool, *scales: float | None
) -> Tensor:
    return _back(dy, size, scales, *_smoothed(aten._upsample_bicubic2d_aa.default, align_corners))
