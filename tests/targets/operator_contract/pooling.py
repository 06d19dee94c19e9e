"""Pooling and upsampling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from .comparison import Comparison, rand

aten = torch.ops.aten


class Pooling(Comparison):
    @pytest.mark.parametrize(
        ("kernel", "stride", "padding", "dilation", "ceil"),
        [
            (2, 2, 0, 1, False),
            (3, 2, 1, 1, False),
            (3, 2, 1, 1, True),
            (3, 1, 1, 2, False),
            ((2, 3), (3, 2), (1, 0), 1, True),
        ],
    )
    def test_max_pool(self, kernel: Any, stride: Any, padding: Any, dilation: int, ceil: bool) -> None:
        x = rand(2, 3, 9, 10)
        self.check_grad(lambda x: F.max_pool2d(x, kernel, stride, padding, dilation, ceil), x)
        self.check_grad(lambda x: F.max_pool2d(x.round(), kernel, stride, padding, dilation, ceil), x)  # ties

    def test_max_pool1d(self) -> None:
        self.check_grad(lambda x: F.max_pool1d(x, 3, 2, 1), rand(2, 3, 9))

    @pytest.mark.parametrize(
        ("kernel", "stride", "padding", "ceil", "include", "divisor"),
        [
            (2, 2, 0, False, True, None),
            (3, 2, 1, False, True, None),
            (3, 2, 1, False, False, None),
            (3, 2, 1, True, True, None),
            (3, 2, 1, True, False, None),
            ((3, 2), (1, 2), (1, 0), False, True, 5),
        ],
    )
    def test_avg_pool(
        self, kernel: Any, stride: Any, padding: Any, ceil: bool, include: bool, divisor: int | None
    ) -> None:
        self.check_grad(
            lambda x: F.avg_pool2d(x, kernel, stride, padding, ceil, include, divisor), rand(2, 3, 9, 10)
        )

    @pytest.mark.parametrize("out", [(1, 1), (2, 5), (3, 4), (7, 7)])
    def test_adaptive_avg_pool(self, out: tuple[int, int]) -> None:
        self.check_grad(lambda x: F.adaptive_avg_pool2d(x, out), rand(2, 3, 6, 10))

    @pytest.mark.parametrize("size", [(12, 20), (7, 13), (3, 5)])
    def test_upsampling(self, size: tuple[int, int]) -> None:
        x = rand(2, 3, 6, 10)
        self.check_grad(lambda x: F.interpolate(x, size, mode="nearest"), x)
        self.check_grad(lambda x: F.interpolate(x, size, mode="bilinear"), x)
        self.check_grad(lambda x: F.interpolate(x, size, mode="bilinear", align_corners=True), x)
        self.check_grad(lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"), x)
        self.check_grad(lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"), x)
