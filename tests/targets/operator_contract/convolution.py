"""Convolutions and their gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .comparison import Comparison, rand

aten = torch.ops.aten


def conv_args(
    spec: tuple[int, ...], n: int, i: int, o: int, k: int | tuple[int, ...], groups: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    kernel = (k,) * len(spec) if isinstance(k, int) else k
    return rand(n, i, *spec), rand(o, i // groups, *kernel, seed=3)


CONVOLUTIONS = {
    # name: (size, N, I, O, kernel, stride, padding, dilation, groups)
    "1x1": ((5, 7), 2, 4, 6, 1, 1, 0, 1, 1),
    "1x1_strided": ((9, 8), 2, 4, 6, 1, 2, 0, 1, 1),
    "1x1_padded": ((5, 5), 2, 4, 6, 1, 1, 1, 1, 1),
    "3x3": ((9, 8), 2, 4, 6, 3, 1, 1, 1, 1),
    "3x3_valid": ((9, 8), 2, 4, 6, 3, 1, 0, 1, 1),
    "3x3_strided": ((9, 8), 2, 4, 6, 3, 2, 1, 1, 1),
    "3x3_dilated": ((9, 8), 2, 4, 6, 3, 1, 2, 2, 1),
    "3x3_odd": ((8, 11), 1, 3, 5, 3, 3, 1, 2, 1),
    "wide_padding": ((6, 6), 2, 4, 6, 3, 1, 3, 1, 1),
    "7x7_strided": ((16, 15), 2, 3, 4, 7, 2, 3, 1, 1),
    "2x2_patches": ((8, 12), 2, 3, 5, 4, 4, 0, 1, 1),
    "3x1": ((9, 8), 2, 4, 6, (3, 1), (2, 1), (1, 0), 1, 1),
    "depthwise": ((9, 8), 2, 6, 6, 3, 1, 1, 1, 6),
    "depthwise_strided": ((9, 8), 2, 6, 6, 5, 2, 2, 1, 6),
    "depthwise_dilated": ((9, 8), 2, 6, 6, 3, 1, 2, 2, 6),
    "depthwise_1d": ((11,), 3, 6, 6, 3, 2, 1, 1, 6),
    "depthwise_batch": ((5, 6), 19, 3, 3, 3, 1, 1, 1, 3),
    "depthwise_multiplied": ((9, 8), 2, 3, 6, 3, 1, 1, 1, 3),
    "grouped": ((9, 8), 2, 6, 4, 3, 2, 1, 1, 2),
    "grouped_1x1": ((9, 8), 2, 6, 4, 1, 1, 0, 1, 2),
    "1d": ((11,), 2, 4, 6, 3, 2, 1, 1, 1),
    "1d_grouped": ((11,), 2, 4, 6, 3, 1, 1, 2, 2),
    "3d": ((5, 6, 7), 2, 3, 4, 3, 2, 1, 1, 1),
    "3d_depthwise": ((5, 6, 7), 2, 4, 4, 3, 1, 1, 1, 4),
}


def input_gradient(y: torch.Tensor, w: torch.Tensor, x: torch.Tensor, s: Any, p: Any, d: Any, g: int) -> Any:
    """The transposed convolution that the engine makes of the input's gradient, with output_padding."""
    n = w.ndim - 2
    s, p, d = ([v] * n if isinstance(v, int) else list(v) for v in (s, p, d))
    natural = [(o - 1) * s[i] - 2 * p[i] + d[i] * (w.shape[2 + i] - 1) + 1 for i, o in enumerate(y.shape[2:])]
    extra = [x.shape[2 + i] - natural[i] for i in range(n)]
    return lambda dy, w: aten.convolution(dy, w, None, s, p, d, True, extra, g)


class Convolution(Comparison):
    @pytest.mark.parametrize("name", CONVOLUTIONS)
    def test_convolution(self, name: str) -> None:
        size, n, i, o, k, stride, padding, dilation, groups = CONVOLUTIONS[name]
        x, w = conv_args(size, n, i, o, k, groups)
        function = (F.conv1d, F.conv2d, F.conv3d)[len(size) - 1]
        self.check_grad(lambda x, w, b: function(x, w, b, stride, padding, dilation, groups), x, w, rand(o))

    @pytest.mark.parametrize("name", CONVOLUTIONS)
    def test_gradient_of_the_input(self, name: str) -> None:
        size, n, i, o, k, stride, padding, dilation, groups = CONVOLUTIONS[name]
        x, w = conv_args(size, n, i, o, k, groups)
        function = (F.conv1d, F.conv2d, F.conv3d)[len(size) - 1]
        y = function(x, w, None, stride, padding, dilation, groups)
        self.check(input_gradient(y, w, x, stride, padding, dilation, groups), rand(*y.shape), w)

    def test_padding_with_another_value_stays(self) -> None:
        self.check_grad(
            lambda x, w: F.conv2d(F.pad(x, (1, 1, 1, 1), value=3), w), rand(2, 4, 5, 5), rand(3, 4, 3, 3)
        )
        self.check_grad(lambda x, w: F.conv2d(F.pad(x, (-1, 1)), w), rand(2, 4, 5, 5), rand(3, 4, 3, 3))

    @pytest.mark.parametrize("stride", [1, 2, 3])
    @pytest.mark.parametrize("groups", [1, 2])
    def test_transposed_convolution(self, stride: int, groups: int) -> None:
        x, w, b = rand(2, 4, 5, 6), rand(4, 3, 3, 3), rand(3 * groups)
        extra = stride - 1
        self.check_grad(lambda x, w, b: F.conv_transpose2d(x, w, b, stride, 1, extra, groups), x, w, b)

    # A case that every target inherits runs as a method of several classes.
    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.differing_executors],
    )
    @given(
        size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
        dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
        groups=st.sampled_from([1, 2, 4]),
        batch=st.integers(1, 2),
    )
    def test_gradients_of_any_convolution(
        self, size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int, batch: int
    ) -> None:
        if any(n + 2 * p < d * (k - 1) + 1 for n, p, d, k in zip(size, padding, dilation, kernel)):
            return
        x, w = rand(batch, 4, *size), rand(4, 4 // groups, *kernel)
        y = F.conv2d(x, w, None, stride, padding, dilation, groups)
        backward = lambda dy, x, w: aten.convolution_backward(  # noqa: E731
            dy, x, w, [4], stride, padding, dilation, False, [0, 0], groups, [True, True, True]
        )
        self.check(backward, rand(*y.shape), x, w)
