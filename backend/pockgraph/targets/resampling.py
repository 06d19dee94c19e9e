"""Average pooling and resampling as matrices.

Both are linear and separable: y = A_h x A_wᵀ with one constant matrix `[out, in]` an axis, so that the
backward is the same with the matrices transposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

aten = torch.ops.aten


def pair(x: Sequence[int]) -> tuple[int, int]:
    """ATen's size for two dimensions, where one number may stand for both."""
    return (x[0], x[0]) if len(x) == 1 else (x[0], x[1])


def average_matrix(
    size: int, out: int, k: int, s: int, p: int, include_pad: bool, divide: bool
) -> torch.Tensor:
    """[out, size]: row i averages the window of output i along one axis."""
    matrix = torch.zeros(out, size)
    for i in range(out):
        start, stop = i * s - p, min(i * s - p + k, size + p)
        inside = range(max(start, 0), min(stop, size))
        count = stop - start if include_pad else len(inside)
        matrix[i, inside.start : inside.stop] = 1 / count if divide else 1
    return matrix


def average_matrices(
    sizes: Any, out: Any, kernel: Any, stride: Any, padding: Any, include_pad: bool, divisor: int | None
) -> list[torch.Tensor]:
    """The matrices of `avg_pool2d`, of height and width."""
    k, p = pair(kernel), pair(padding)
    s = pair(stride) if stride else k
    matrices = [
        average_matrix(sizes[i], out[i], k[i], s[i], p[i], include_pad, divisor is None) for i in range(2)
    ]
    return matrices if divisor is None else [matrices[0] / divisor, matrices[1]]


def adaptive_matrix(size: int, out: int) -> torch.Tensor:
    """Of adaptive average pooling along one axis."""
    matrix = torch.zeros(out, size)
    for i in range(out):
        start, stop = i * size // out, -(-(i + 1) * size // out)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


def nearest_matrix(size: int, out: int, scale: float | None) -> torch.Tensor:
    return aten.upsample_nearest1d.default(torch.eye(size)[None], [out], scale)[0].T


def linear_matrix(size: int, out: int, scale: float | None, align_corners: bool) -> torch.Tensor:
    return aten.upsample_linear1d.default(torch.eye(size)[None], [out], align_corners, scale)[0].T
