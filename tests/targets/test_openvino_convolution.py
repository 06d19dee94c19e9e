"""What OpenVINO makes of convolutions: every strategy of the weight gradient, padding, and constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from openvino_graphs import CONFIG, CORE, check, check_with_constants
from operator_contract.comparison import assert_close, graph_of, rand
from operator_contract.convolution import CONVOLUTIONS, conv_args, input_gradient

from pockgraph.runtime.quiet_openvino import ov
from pockgraph.targets import get_target
from pockgraph.targets.openvino import convolution as conv
from pockgraph.targets.openvino import lower

aten = torch.ops.aten

# ---------------------------------------------------------------- convolution


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


@pytest.mark.parametrize("target", ["openvino", "onnx"])
def test_several_gradients_at_once_are_refused(target: str) -> None:
    """Canonical graphs have one node for each; the rule, which makes the weight's, would drop the others."""

    def backward(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> Any:
        space = [1, 1], [1, 1], [1, 1], False, [0, 0]
        return aten.convolution_backward(dy, x, w, [4], *space, 1, [True, True, True])

    graph = graph_of(backward, rand(2, 4, 5, 5), rand(2, 3, 5, 5), rand(4, 3, 3, 3))
    assert "several gradients" in get_target(target).unsupported(graph)[0].reason


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
def test_a_scale_after_a_convolution_stays_out_of_its_backward(
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
