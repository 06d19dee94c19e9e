"""Convolutions and their gradients on the OpenVINO target, by every strategy, against eager PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from openvino_oracle import (
    CONFIG,
    CORE,
    assert_close,
    check,
    check_grad,
    check_with_constants,
    graph_of,
    rand,
)

from pockgraph.targets.openvino import lower
from pockgraph.targets.openvino import weight_gradient as conv
from pockgraph.targets.openvino.emit import ov

aten = torch.ops.aten

# ---------------------------------------------------------------- convolution


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


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name: str) -> None:
    size, n, i, o, k, stride, padding, dilation, groups = CONVOLUTIONS[name]
    x, w = conv_args(size, n, i, o, k, groups)
    function = (F.conv1d, F.conv2d, F.conv3d)[len(size) - 1]
    check_grad(lambda x, w, b: function(x, w, b, stride, padding, dilation, groups), x, w, rand(o))


def input_gradient(y: torch.Tensor, w: torch.Tensor, x: torch.Tensor, s: Any, p: Any, d: Any, g: int) -> Any:
    """The transposed convolution that the engine makes of the input's gradient, with output_padding."""
    n = w.ndim - 2
    s, p, d = ([v] * n if isinstance(v, int) else list(v) for v in (s, p, d))
    natural = [(o - 1) * s[i] - 2 * p[i] + d[i] * (w.shape[2 + i] - 1) + 1 for i, o in enumerate(y.shape[2:])]
    extra = [x.shape[2 + i] - natural[i] for i in range(n)]
    return lambda dy, w: aten.convolution(dy, w, None, s, p, d, True, extra, g)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_gradient_of_the_input(name: str) -> None:
    size, n, i, o, k, stride, padding, dilation, groups = CONVOLUTIONS[name]
    x, w = conv_args(size, n, i, o, k, groups)
    function = (F.conv1d, F.conv2d, F.conv3d)[len(size) - 1]
    y = function(x, w, None, stride, padding, dilation, groups)
    check(input_gradient(y, w, x, stride, padding, dilation, groups), rand(*y.shape), w)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("size", "stride"), [(8, 2), (9, 2), (7, 1)])
def test_padding_becomes_part_of_the_convolution(size: int, stride: int, groups: int) -> None:
    """Uneven padding forward, and the crop of its backward."""
    pad, w = (0, 1, 1, 2), rand(4, 4 // groups, 3, 3)

    def forward(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.pad(x, pad), w, None, stride, 1, groups=groups)

    x = rand(2, 4, size, size)
    dy = rand(*forward(x, w).shape)
    padded = F.pad(x, pad)
    gradient = input_gradient(dy, w, padded, stride, 1, 1, groups)

    def backward(dy: torch.Tensor, w: torch.Tensor) -> Any:
        return F.pad(gradient(dy, w), [-p for p in pad])

    def weight(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> Any:
        space = [stride] * 2, [1, 1], [1, 1], False, [0, 0]
        mask = [False, True, False]
        return aten.convolution_backward(dy, F.pad(x, pad), w, None, *space, groups, mask)[1]

    check(forward, x, w)
    check(backward, dy, w)
    check(weight, dy, x, w)
    for graph in (graph_of(forward, x, w), graph_of(backward, dy, w)):
        assert "Pad" not in {n.get_type_name() for n in lower(graph).get_ops()}


def test_padding_with_another_value_stays() -> None:
    check_grad(lambda x, w: F.conv2d(F.pad(x, (1, 1, 1, 1), value=3), w), rand(2, 4, 5, 5), rand(3, 4, 3, 3))
    check_grad(lambda x, w: F.conv2d(F.pad(x, (-1, 1)), w), rand(2, 4, 5, 5), rand(3, 4, 3, 3))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolution(stride: int, groups: int) -> None:
    x, w, b = rand(2, 4, 5, 6), rand(4, 3, 3, 3), rand(3 * groups)
    extra = stride - 1
    check_grad(lambda x, w, b: F.conv_transpose2d(x, w, b, stride, 1, extra, groups), x, w, b)


def weight_gradient_by(strategy: Any, x: torch.Tensor, dy: torch.Tensor, w: torch.Tensor, g: Any) -> None:
    """One strategy, whatever the chooser would take, against ATen."""
    expected = aten.convolution_backward(
        dy,
        x,
        w,
        None,
        g.stride,
        g.before,
        g.dilation,
        False,
        [0] * len(g.kernel),
        g.groups,
        [False, True, False],
    )[1]
    parameters = [ov.op.Parameter(ov.Type.f32, ov.PartialShape(list(v.shape))) for v in (x, dy)]
    made = strategy(parameters[0].output(0), parameters[1].output(0), g)
    model = ov.Model([ov.op.Result(made)], parameters, "strategy")
    got = CORE.compile_model(model, "CPU", CONFIG)([x.numpy(), dy.numpy()])[0]
    assert_close(torch.from_numpy(np.array(got)), expected, strategy.__name__)


@pytest.mark.parametrize("strategy", conv.STRATEGIES, ids=lambda s: s.__name__)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_strategies_of_the_weight_gradient(name: str, strategy: Any) -> None:
    size, n, i, o, k, stride, padding, dilation, groups = CONVOLUTIONS[name]
    x, w = conv_args(size, n, i, o, k, groups)
    g = conv.Geometry.of(
        w.shape[2:], *((v,) if isinstance(v, int) else v for v in (stride, padding, dilation)), groups
    )
    function = (F.conv1d, F.conv2d, F.conv3d)[len(size) - 1]
    dy = rand(*function(x, w, None, stride, padding, dilation, groups).shape, seed=8)
    if not conv.applies(strategy, tuple(x.shape), tuple(dy.shape), g):
        pytest.skip("not for this shape")
    weight_gradient_by(strategy, x, dy, w, g)


@settings(max_examples=25, deadline=None, derandomize=True)
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
    size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int, batch: int
) -> None:
    if any(n + 2 * p < d * (k - 1) + 1 for n, p, d, k in zip(size, padding, dilation, kernel)):
        return
    x, w = rand(batch, 4, *size), rand(4, 4 // groups, *kernel)
    y = F.conv2d(x, w, None, stride, padding, dilation, groups)
    backward = lambda dy, x, w: aten.convolution_backward(  # noqa: E731
        dy, x, w, [4], stride, padding, dilation, False, [0, 0], groups, [True, True, True]
    )
    check(backward, rand(*y.shape), x, w)


# ---------------------------------------------------------------- constants shared by forward and backward


@pytest.mark.parametrize("shape", [(64, 64), (64, 32)])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_a_constant_matrix_is_used_as_it_is_and_transposed(
    shape: tuple[int, int], batch: tuple[int, ...]
) -> None:
    """OpenVINO packs it for one of the two and would take that for the other when it is square."""
    w = rand(*batch, *shape)
    x, dy = rand(*batch, 16, shape[1], seed=1), rand(*batch, 16, shape[0], seed=2)
    function = lambda x, dy, w: (x @ w.transpose(-1, -2), dy @ w)  # noqa: E731
    check_with_constants(function, {2}, x, dy, w)


@pytest.mark.parametrize("groups", [1, 4, 16])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_constant_kernel_is_used_forward_and_backward(kernel: int, stride: int, groups: int) -> None:
    """As above, with as many inputs as outputs."""
    w = rand(16, 16 // groups, kernel, kernel)
    x = rand(2, 16, 8, 8, seed=1)
    y = F.conv2d(x, w, None, stride, kernel // 2, 1, groups)
    backward = input_gradient(y, w, x, stride, kernel // 2, 1, groups)

    def function(x: torch.Tensor, dy: torch.Tensor, w: torch.Tensor) -> Any:
        return F.conv2d(x, w, None, stride, kernel // 2, 1, groups), backward(dy, w)

    check_with_constants(function, {2}, x, rand(*y.shape, seed=2), w)


@pytest.mark.parametrize("groups", [1, 4, 12])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("trained", [False, True])
def test_a_scale_behind_a_convolution_stays_out_of_its_backward(
    groups: int, stride: int, trained: bool
) -> None:
    """OpenVINO moves the scale into the weight, of which the backward must not see anything."""
    x, w, scale = rand(2, 12, 6, 6), rand(12, 12 // groups, 3, 3), rand(1, 12, 1, 1)
    y = F.conv2d(x, w, None, stride, 1, 1, groups)
    backward = input_gradient(y, w, x, stride, 1, 1, groups)

    def function(x: torch.Tensor, dy: torch.Tensor, w: torch.Tensor, scale: torch.Tensor) -> Any:
        y = F.conv2d(x, w, None, stride, 1, 1, groups) * scale
        again = F.conv2d(x, w, None, stride, 1, 1, groups) * (scale * 2)
        return y, again, backward(dy, w), backward(dy * scale, w)

    constants = {3} if trained else {2, 3}
    check_with_constants(function, constants, x, rand(*y.shape, seed=1), w, scale)


WIDENED = {
    # name: (dimensions, transposed, groups)
    "conv1d": (1, False, 1),
    "conv2d": (2, False, 1),
    "conv2d_grouped": (2, False, 2),
    "conv3d": (3, False, 1),
    "conv_transpose1d": (1, True, 1),
    "conv_transpose2d": (2, True, 1),
    "conv_transpose2d_grouped": (2, True, 2),
    "conv_transpose3d": (3, True, 1),
}


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", WIDENED)
def test_a_factor_that_makes_several_channels_of_one_before_a_convolution(name: str, trained: bool) -> None:
    """OpenVINO moves the factor into the weight, which leaves the convolution too few channels."""
    ndim, transposed, groups = WIDENED[name]
    x, factor = rand(2, 1, *[5] * ndim), rand(4, *[1] * ndim, low=0.5)
    w = rand(*((4, 6 // groups) if transposed else (6, 4 // groups)), *[2] * ndim, seed=1)

    def function(x: torch.Tensor, w: torch.Tensor, factor: torch.Tensor) -> Any:
        inputs = (x * factor, factor[None] * x, x / factor, x * (factor - 0.1))
        no = [0] * ndim
        one = [1] * ndim
        return tuple(aten.convolution(i, w, None, one, no, one, transposed, no, groups) for i in inputs)

    check_with_constants(function, {2} if trained else {1, 2}, x, w, factor)
