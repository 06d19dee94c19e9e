"""The cases of `expansion_cases.py` that have space: padding, convolutions, pools, resizing, grids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from expansion_values import rand
from torch import Tensor

aten = torch.ops.aten


def weight_gradient(stride: int, padding: int = 1, transposed: bool = False) -> Callable[..., Tensor]:
    """Of a convolution in two groups."""

    def gradient(x: Tensor, w: Tensor) -> Tensor:
        each = [[n] * (x.ndim - 2) for n in (stride, padding, 1, 0)]
        space = (*each[:3], transposed, each[3], 2)
        y = aten.convolution.default(x.detach(), w.detach(), None, *space)
        dy = torch.cos(y)
        return aten.convolution_backward.default(
            dy, x.detach(), w.detach(), None, *space, [False, True, False]
        )[1]

    return gradient


grid = 1.3 * rand(2, 3, 4, 2)
grid3 = 1.3 * rand(2, 2, 3, 2, 3)

CASES_OF_SPACE: dict[str, tuple[Any, ...]] = {
    "reflection_1d": (lambda x: F.pad(x, (2, 1), "reflect"), rand(2, 3, 4)),
    "reflection_2d": (lambda x: F.pad(x, (2, 1, 0, 3), "reflect"), rand(2, 2, 4, 4)),
    "reflection_3d": (lambda x: F.pad(x, (1, 1, 0, 2, 1, 0), "reflect"), rand(1, 2, 3, 3, 3)),
    "replication_1d": (lambda x: F.pad(x, (2, 1), "replicate"), rand(2, 3, 4)),
    "replication_cut": (lambda x: F.pad(x, (2, -1), "replicate"), rand(2, 3, 4)),
    "replication_2d": (lambda x: F.pad(x, (2, 1, 0, 5), "replicate"), rand(2, 2, 4, 4)),
    "replication_3d": (lambda x: F.pad(x, (1, 4, 0, 2, 1, 0), "replicate"), rand(1, 2, 3, 3, 3)),
    "weight_gradient": (weight_gradient(1), rand(2, 4, 7, 8), rand(6, 2, 3, 2)),
    "weight_gradient_1d": (weight_gradient(1), rand(2, 4, 7), rand(6, 2, 3)),
    "weight_gradient_transposed": (weight_gradient(1, transposed=True), rand(2, 4, 5, 4), rand(4, 3, 3, 2)),
    "weight_gradient_rest": (weight_gradient(3, padding=0), rand(1, 4, 9, 9), rand(2, 2, 2, 2)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, (2, 3), 2, (1, 0)), rand(1, 2, 5, 6)),
    "avg_pool2d_ceil": (
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False), rand(1, 2, 5, 6)
    ),
    "avg_pool2d_divided": (lambda x: F.avg_pool2d(x, 2, divisor_override=3), rand(2, 5, 6)),
    "max_pool2d": (lambda x: F.max_pool2d(x, (3, 2), (1, 2), (1, 0)), rand(1, 2, 5, 6)),
    "max_pool2d_ceil": (lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), rand(2, 5, 6)),
    "max_pool2d_dilated": (lambda x: F.max_pool2d(x, 2, 1, dilation=2), rand(1, 2, 5, 6)),
    "max_pool2d_ties": (lambda x: F.max_pool2d(x.round(), 2, 1), rand(1, 1, 4, 4)),
    "avg_pool3d": (lambda x: F.avg_pool3d(x, (2, 3, 2), 2, (1, 1, 0)), rand(1, 2, 4, 5, 6)),
    "avg_pool3d_ceil": (
        lambda x: F.avg_pool3d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False), rand(1, 2, 4, 5, 6)
    ),
    "avg_pool3d_divided": (lambda x: F.avg_pool3d(x, 2, divisor_override=3), rand(2, 4, 5, 6)),
    "adaptive_avg_3d": (lambda x: F.adaptive_avg_pool3d(x, (2, 3, 5)), rand(1, 2, 4, 5, 3)),
    "max_pool3d": (lambda x: F.max_pool3d(x, (2, 3, 2), (2, 1, 2), (1, 1, 0)), rand(1, 2, 4, 5, 6)),
    "max_pool3d_ceil": (lambda x: F.max_pool3d(x, 3, 2, 1, ceil_mode=True), rand(1, 2, 4, 5, 6)),
    "max_pool3d_dilated": (lambda x: F.max_pool3d(x, 2, 1, dilation=2), rand(2, 4, 5, 6)),
    "max_pool3d_places": (lambda x: F.max_pool3d(x, 2, return_indices=True), rand(1, 2, 4, 5, 6)),
    "max_pool3d_ties": (lambda x: F.max_pool3d(x.round(), 2, 1), rand(1, 1, 4, 4, 4)),
    "max_pool2d_places": (
        lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True, return_indices=True), rand(1, 2, 6, 5)
    ),
    "adaptive_max_2d": (lambda x: F.adaptive_max_pool2d(x, (2, 3)), rand(2, 2, 5, 7)),
    "adaptive_max_2d_grows": (lambda x: F.adaptive_max_pool2d(x, (4, 3)), rand(2, 3, 2)),
    "adaptive_max_ties": (
        lambda x: F.adaptive_max_pool2d(x.round(), (2, 3), return_indices=True), rand(2, 2, 5, 7)
    ),
    "adaptive_max_3d": (lambda x: F.adaptive_max_pool3d(x, (2, 3, 2)), rand(1, 2, 4, 5, 3)),
    **{
        f"resize_{mode}_{len(size)}d_{corners}_{k}": (
            lambda x, m=mode, s=size, k=k, c=corners: F.interpolate(
                x, s if k == "size" else None, k if isinstance(k, float) else None, m, c
            ),
            rand(1, 2, *(4 for _ in size)),
        )
        for mode, size, corners, k in (
            ("nearest", (7,), None, 1.7), ("nearest", (7, 3, 5), None, "size"),
            ("nearest-exact", (7,), None, "size"), ("nearest-exact", (7, 3), None, 1.7),
            ("nearest-exact", (7, 3, 5), None, "size"), ("linear", (7,), False, 1.7),
            ("linear", (3,), True, "size"), ("trilinear", (7, 3, 5), False, 1.7),
            ("trilinear", (7, 3, 5), True, "size"), ("bicubic", (7, 3), False, 1.7),
            ("bicubic", (7, 3), True, "size"),
        )
    },
    "antialias": (lambda x: F.interpolate(x, (3, 5), mode="bilinear", antialias=True), rand(1, 2, 6, 8)),
    "antialias_cubic": (
        lambda x: F.interpolate(x, (3, 9), mode="bicubic", antialias=True), rand(1, 2, 6, 8)
    ),
    **{
        f"grid_{mode}_{padding}_{corners}": (
            lambda x, g, m=mode, p=padding, c=corners: F.grid_sample(x, g, m, p, c), rand(2, 2, 4, 5), grid
        )
        for mode, padding, corners in (
            ("bilinear", "zeros", False), ("bilinear", "border", False), ("bilinear", "reflection", True),
            ("nearest", "zeros", True), ("nearest", "reflection", False), ("bicubic", "zeros", False),
            ("bicubic", "border", True), ("bicubic", "reflection", False),
        )
    },
    "grid_of_borders": (
        lambda x, g: F.grid_sample(x, g.round().clamp(-1, 1), "bilinear", "border", True),
        rand(2, 2, 4, 5), grid,
    ),
    "grid_3d": (lambda x, g: F.grid_sample(x, g, align_corners=False), rand(2, 2, 3, 4, 3), grid3),
    "grid_3d_nearest": (
        lambda x, g: F.grid_sample(x, g, "nearest", "reflection", True), rand(2, 2, 3, 4, 3), grid3
    ),
}  # fmt: skip
