"""Resize: separable resampling, y = A x along each resized axis.

The matrices follow the operator's definition in float32, as its implementations do: in double
precision a coordinate that lies on the border between two pixels could round to the other one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .operator_rules import NotRunnable, from_start, only, op

f32 = np.float32
_MODES = {
    "antialias": 0,
    "coordinate_transformation_mode": (
        "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
        "tf_half_pixel_for_nn",
    ),
    "keep_aspect_ratio_policy": "stretch",
    "mode": ("nearest", "linear", "cubic"),
    "nearest_mode": ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
}  # fmt: skip


_UPSAMPLED = only(mode=("nearest", "linear"))


def _coordinates(size: int, out: int, scale: float, how: str) -> np.ndarray:
    """[out]: where in the input each output pixel lies."""
    i, s = np.arange(out, dtype=f32), f32(scale)
    match how:
        case "asymmetric":
            return i / s
        case "tf_half_pixel_for_nn":
            return (i + f32(0.5)) / s
        case "align_corners":
            return i * f32(size - 1) / f32(out - 1) if out > 1 else np.zeros(1, f32)
        case "pytorch_half_pixel" if out == 1:
            return np.zeros(1, f32)
        case "half_pixel_symmetric":
            adjustment = f32(out) / (s * f32(size))
            return f32(size / 2) * (1 - adjustment) + (i + f32(0.5)) / s - f32(0.5)
    return (i + f32(0.5)) / s - f32(0.5)


def _nearest(x: np.ndarray, how: str) -> np.ndarray:
    match how:
        case "floor":
            return np.floor(x)
        case "ceil":
            return np.ceil(x)
        case "round_prefer_ceil":
            return np.floor(x + f32(0.5))
    return np.ceil(x - f32(0.5))


def resize_matrix(size: int, out: int, scale: float, mode: str, o: dict[str, Any]) -> np.ndarray:
    """[out, size]: the weight of each input pixel in each output pixel."""
    x = _coordinates(size, out, scale, o["coordinates"])
    matrix, rows = np.zeros((out, size), f32), np.arange(out)
    if mode == "nearest":
        matrix[rows, np.clip(_nearest(x, o["nearest"]), 0, size - 1).astype(int)] = 1
        return matrix
    if mode == "linear":
        x = np.clip(x, 0, size - 1)
        low = np.floor(x).astype(int)
        part = x - low.astype(f32)
        np.add.at(matrix, (rows, low), 1 - part)
        np.add.at(matrix, (rows, np.minimum(low + 1, size - 1)), part)
        return matrix
    low = np.floor(x).astype(int)
    part, a = (x - low.astype(f32)).astype(np.float64), o["cubic"]
    near = lambda t: ((a + 2) * t - (a + 3)) * t * t + 1  # noqa: E731
    far = lambda t: ((a * t - 5 * a) * t + 8 * a) * t - 4 * a  # noqa: E731
    weights = np.stack([far(part + 1), near(part), near(1 - part), far(2 - part)])
    at = low + np.arange(-1, 3)[:, None]
    if o["exclude_outside"]:
        weights = np.where((at < 0) | (at >= size), 0, weights)
        weights = weights / weights.sum(0)
    for w, column in zip(weights, np.clip(at, 0, size - 1)):
        np.add.at(matrix, (rows, column), w.astype(f32))
    return matrix


def _along(x: Tensor, axis: int, matrix: np.ndarray) -> Tensor:
    a = torch.from_numpy(matrix).to(x.dtype)
    if axis == x.ndim - 1:
        return x @ a.T
    if axis == x.ndim - 2:
        return a @ x
    return (x.movedim(axis, -1) @ a.T).movedim(-1, axis)


def _resize(x: Tensor, out: Sequence[int], scales: Sequence[float], mode: str, o: dict[str, Any]) -> Tensor:
    axes = [d for d in range(x.ndim) if out[d] != x.shape[d] or scales[d] != 1]
    matrices = {d: resize_matrix(x.shape[d], out[d], scales[d], mode, o) for d in axes}
    if not axes:
        return x
    if x.ndim == 4 and min(axes) >= 2:
        if mode == "nearest" and all(_repeats(m) for m in matrices.values()):
            return F.interpolate(x, size=tuple(out[2:]), mode="nearest")
        exact = all(scales[d] == out[d] / x.shape[d] for d in (2, 3))
        if mode == "linear" and exact and o["coordinates"] in ("half_pixel", "align_corners"):
            corners = o["coordinates"] == "align_corners"
            return F.interpolate(x, size=tuple(out[2:]), mode="bilinear", align_corners=corners)
    for d, matrix in matrices.items():
        x = _along(x, d, matrix)
    return x


def _repeats(matrix: np.ndarray) -> bool:
    """Does it repeat every pixel the same number of times?"""
    out, size = matrix.shape
    return out % size == 0 and np.array_equal(matrix, np.repeat(np.eye(size, dtype=f32), out // size, 0))


@op("Upsample", 7, check=_UPSAMPLED)
def upsample_attribute(x: Tensor, *, scales: Sequence[float], mode: str = "nearest") -> Tensor:
    return _upsample(x, np.array(scales, f32), mode)


@op("Upsample", 9, host=("scales",), check=_UPSAMPLED)
def upsample(x: Tensor, scales: np.ndarray, *, mode: str = "nearest") -> Tensor:
    return _upsample(x, scales, mode)


@op("Resize", 10, host=("scales",), check=_UPSAMPLED)
def resize_10(x: Tensor, scales: np.ndarray, *, mode: str = "nearest") -> Tensor:
    return _upsample(x, scales, mode)


def _upsample(x: Tensor, scales: np.ndarray, mode: str) -> Tensor:
    o = {"coordinates": "asymmetric", "nearest": "floor", "cubic": -0.75, "exclude_outside": 0}
    out = [math.floor(size * float(s)) for size, s in zip(x.shape, scales)]
    return _resize(x, out, [float(s) for s in scales], mode, o)


@op("Resize", 11, 13, 18, 19, host=("roi", "scales", "sizes"), check=only(**_MODES))
def resize(
    x: Tensor,
    roi: np.ndarray | None = None,
    scales: np.ndarray | None = None,
    sizes: np.ndarray | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """`roi` only matters to cropping, which the check refuses."""
    picked = [from_start(d, x.ndim) for d in axes] if axes is not None else list(range(x.ndim))
    out, factor = list(x.shape), [1.0] * x.ndim
    if sizes is not None and sizes.size:
        for d, size in zip(picked, sizes):
            out[d], factor[d] = int(size), int(size) / x.shape[d]
    elif scales is not None and scales.size:
        for d, scale in zip(picked, scales):
            out[d], factor[d] = math.floor(x.shape[d] * float(scale)), float(scale)
    else:
        raise NotRunnable("it has neither scales nor sizes")
    o = {
        "coordinates": coordinate_transformation_mode,
        "nearest": nearest_mode,
        "cubic": cubic_coeff_a,
        "exclude_outside": exclude_outside,
    }
    return _resize(x, out, factor, mode, o)
