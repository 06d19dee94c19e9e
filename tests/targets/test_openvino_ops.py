"""Every operator rule of the OpenVINO target against eager PyTorch running the same ATen graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from openvino_oracle import check, check_grad, graph_of, ints, rand, with_grad

from pockgraph.passes.canonicalize import Canonicalize
from pockgraph.targets.openvino import lower

aten = torch.ops.aten

# ---------------------------------------------------------------- elementwise

UNARY = {
    "neg": torch.neg,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "abs": torch.abs,
    "sign": torch.sign,
    "sgn": torch.sgn,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "square": torch.square,
    "reciprocal": torch.reciprocal,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "trunc": torch.trunc,
    "silu": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "elu": lambda x: F.elu(x, 0.7),
    "celu": lambda x: F.celu(x, 1.3),
    "selu": F.selu,
    "softplus": lambda x: F.softplus(x, 1.5, 3.0),
    "logsigmoid": F.logsigmoid,
    "softsign": F.softsign,
    "threshold": lambda x: F.threshold(x, 0.3, -1.0),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "clamp_min": lambda x: x.clamp_min(0.1),
    "clamp_max": lambda x: x.clamp_max(0.1),
    "pow2": lambda x: x**2,
    "pow3": lambda x: x**3,
    "pow4": lambda x: x**4,
    "pow5": lambda x: x**5,
    "pow-1": lambda x: x**-1,
    "add": lambda x: x + 1.5,
    "rsub": lambda x: 1.5 - x,
    "mul": lambda x: x * 3,
    "div": lambda x: x / 3,
    "rdiv": lambda x: 3 / x,
}


@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str) -> None:
    check_grad(UNARY[name], 2 * rand(3, 5, 7))


POSITIVE = {
    "log": torch.log,
    "log2": torch.log2,
    "log10": torch.log10,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "tan": torch.tan,
    "pow.5": lambda x: x**0.5,
    "pow-.5": lambda x: x**-0.5,
    "pow1.7": lambda x: x**1.7,
    "rpow": lambda x: 2**x,
}


@pytest.mark.parametrize("name", POSITIVE)
def test_unary_of_positive(name: str) -> None:
    check_grad(POSITIVE[name], rand(3, 5, 7, low=0.1))


@pytest.mark.parametrize("function", [torch.log1p, torch.expm1])
def test_small_arguments_keep_their_digits(function: Callable[..., Any]) -> None:
    check(function, torch.logspace(-7, -3, 20))


BINARY = {
    "add": lambda a, b: torch.add(a, b, alpha=0.3),
    "sub": lambda a, b: torch.sub(a, b, alpha=2),
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "where": lambda a, b: torch.where(a > b, a, b),
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "addcmul": lambda a, b: torch.addcmul(a, a, b, value=0.5),
    "addcdiv": lambda a, b: torch.addcdiv(a, a, b, value=0.5),
}


@pytest.mark.parametrize(
    "shapes", [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 1)), ((2, 1, 4), (5, 1)), ((), (3,))]
)
@pytest.mark.parametrize("name", BINARY)
def test_binary_broadcasts(name: str, shapes: Any) -> None:
    check_grad(BINARY[name], rand(*shapes[0]), rand(*shapes[1], seed=9))


@pytest.mark.parametrize("mode", [None, "floor", "trunc"])
def test_division_modes(mode: str | None) -> None:
    a, b = ints(9, 50, low=-9), torch.tensor([1, 2, -3, 4, -5] * 10)
    check(lambda a, b: torch.div(a, b, rounding_mode=mode), a, b)
    check(lambda a: torch.div(a, 3, rounding_mode=mode), a)
    check(lambda a, b: torch.div(a, b, rounding_mode=mode), a + 0.25, b * 1.5)


def test_integer_arithmetic() -> None:
    a, b = ints(9, 50, low=-9), torch.tensor([1, 2, -3, 4, -5] * 10)
    check(
        lambda a, b: (a + b, a - b, a * b, a // b, a % b, torch.fmod(a, b), -a, a.abs(), 2 * a, a + 1), a, b
    )
    check(
        lambda a, b: (a + b * 0.5, a / b, a + 1.5, torch.fmod(a * 1.5, b * 0.71), (a * 1.5) % (b * 0.71)),
        a,
        b,
    )
    check(lambda a, b: (a & b, a | b, a ^ b, ~a, a.clamp(-2, 3), torch.maximum(a, b)), a, b)


def test_comparisons_promote_their_operands() -> None:
    a, b = ints(4, 60), ints(4, 60).float() + 0.5
    c = ints(4, 60).flip(0)
    check(lambda a, b: (a == b, a != b, a < b, a <= b, a > b, a >= b, a < 2.5, a == 2), a, b)
    check(lambda a, c: (a == c, a != c, a < c, a <= c, a > c, a >= c), a, c)


def test_logic() -> None:
    a, b = ints(2, 20).bool(), ints(2, 20).flip(0).bool()
    check(lambda a, b: (a & b, a | b, a ^ b, ~a, a.logical_and(b), a.logical_or(b), a.logical_not()), a, b)
    check(lambda a, b: (a * b, a + b, a.float(), a.long() + 1, a.logical_xor(b), torch.where(a, b, ~b)), a, b)
    check(lambda a, x: (x.masked_fill(a, -3.0), torch.where(a, x, 0.0), torch.where(a, 1.0, x)), a, rand(20))
    check(lambda x: (x.logical_not(), x.bool()), torch.tensor([0.0, 0.5, -1.0]))


def test_not_finite() -> None:
    x = torch.tensor([0.0, float("nan"), float("inf"), -float("inf")])
    check(lambda x: (x.isnan(), x.isinf(), x.isfinite(), torch.where(x.isnan(), 0.0, x)), x)


@pytest.mark.parametrize("to", [torch.int64, torch.int32, torch.bool, torch.float64, torch.float32])
def test_casts(to: torch.dtype) -> None:
    check(lambda x: (x.to(to).to(torch.float32), x.clone()), 3 * rand(4, 5))
    check(lambda x: x.to(to).to(torch.float32), ints(5, 20, low=-5))


def test_relu6_backward_reads_the_output() -> None:
    """Its input then has one reader, and the plugin can fuse the activation."""
    graph = graph_of(with_grad(lambda x: F.relu6(x * 2)), rand(4, 4), 3 * rand(4, 4))
    model = lower(Canonicalize()(graph))
    clamp = next(n for n in model.get_ops() if n.get_type_name() == "Clamp")
    assert len(clamp.input_value(0).get_target_inputs()) == 1


def test_creation() -> None:
    check(
        lambda x: (
            torch.zeros(2, 3) + x,
            torch.ones_like(x) * x,
            torch.full((3,), 2.5) + x,
            x.new_ones(3) + x,
            x.new_full((3,), 4.0) - x,
            x.new_zeros(2, 3) + x,
            torch.arange(3) + x,
            torch.arange(1, 7, 2) * x,
            torch.scalar_tensor(2.0) * x,
            torch.full_like(x, 3) + torch.eye(3),
            torch.linspace(0, 1, 3) + x,
        ),
        rand(3),
    )


# ---------------------------------------------------------------- matrix products


def test_matmuls() -> None:
    check_grad(torch.mm, rand(3, 4), rand(4, 5))
    check_grad(torch.bmm, rand(2, 3, 4), rand(2, 4, 5))
    check_grad(torch.matmul, rand(2, 3, 4), rand(4, 5))
    check_grad(torch.mv, rand(3, 4), rand(4))
    check_grad(torch.dot, rand(4), rand(4, seed=1))
    check_grad(lambda b, x, w: torch.addmm(b, x, w.t(), beta=0.5, alpha=2.0), rand(5), rand(3, 4), rand(5, 4))
    check_grad(lambda b, x, w: torch.baddbmm(b, x, w), rand(2, 3, 5), rand(2, 3, 4), rand(2, 4, 5))
    check_grad(F.linear, rand(2, 3, 4), rand(5, 4), rand(5))
    check(lambda x, w: aten.linear.default(x, w), rand(2, 3, 4), rand(5, 4))
    check(lambda y, a, x: torch.addmv(y, a, x, beta=2, alpha=3), rand(3), rand(3, 4), rand(4))


# ---------------------------------------------------------------- shape

SHAPE = {
    "t": lambda x: x[0].t(),
    "transpose": lambda x: x.transpose(0, -1),
    "permute": lambda x: x.permute(2, 0, 1),
    "view": lambda x: x.view(-1, 6),
    "reshape": lambda x: x.transpose(0, 1).reshape(-1),
    "flatten": lambda x: x.flatten(1),
    "expand": lambda x: x[:, :1].expand(-1, 5, -1),
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "squeeze": lambda x: x[:1].squeeze(0),
    "squeeze_all": lambda x: x[:1, :1].squeeze(),
    "select": lambda x: x.select(1, -2),
    "slice": lambda x: x[:, 1:3, -4:],
    "slice_step": lambda x: x[:, :, 1::2],
    "slice_step_last": lambda x: x[:, ::3],
    "slice_empty_end": lambda x: x[:, 2:100],
    "cat": lambda x: torch.cat([x, x[:1] * 2, x], 0),
    "stack": lambda x: torch.stack([x, 2 * x], -1),
    "split": lambda x: torch.cat(x.split(3, 1)[::-1], 1),
    "split_sizes": lambda x: torch.cat(x.split([1, 3], 1)[::-1], 1),
    "chunk": lambda x: x.chunk(2, -1)[1],
    "unbind": lambda x: x.unbind(1)[2],
    "flip": lambda x: x.flip(0, 2),
    "roll": lambda x: x.roll((1, -2), (1, 2)),
    "roll_flat": lambda x: x.roll(5),
    "repeat": lambda x: x.repeat(2, 1, 3, 1),
    "pad": lambda x: F.pad(x, (1, 2, 3, 0), value=0.5),
    "crop": lambda x: F.pad(x, (-1, 2)),
    "tril": torch.tril,
    "triu": lambda x: x.triu(1),
    "select_scatter": lambda x: torch.select_scatter(x, x[:, 0] * 2, 1, 2),
    "slice_scatter": lambda x: torch.slice_scatter(x, x[:, :2] * 2, 1, 1, 4, 2),
}


@pytest.mark.parametrize("name", SHAPE)
def test_shape(name: str) -> None:
    check_grad(lambda x: SHAPE[name](x) * 1.0, rand(3, 4, 6))


def test_backwards_of_slices() -> None:
    for start, end, step in [(0, 7, 1), (1, 6, 2), (2, 7, 3), (0, 7, 4), (3, 4, 1)]:
        dy = rand(2, len(range(start, end, step)), 3)
        check(partial(aten.slice_backward, input_sizes=[2, 7, 3], dim=1, start=start, end=end, step=step), dy)
    check(lambda g: aten.select_backward(g, [2, 7, 3], 1, -2), rand(2, 3))


def test_pixel_shuffle() -> None:
    check_grad(lambda x: F.pixel_shuffle(x, 2), rand(2, 12, 3, 5))
    check_grad(lambda x: F.pixel_unshuffle(x, 2), rand(2, 3, 4, 6))


# ---------------------------------------------------------------- reductions

REDUCTIONS = {
    "sum": torch.sum,
    "sum_dims": lambda x: x.sum((0, 2)),
    "sum_keep": lambda x: x.sum((-1,), keepdim=True),
    "mean": torch.mean,
    "mean_dims": lambda x: x.mean((1, 2)),
    "amax": lambda x: x.amax(1),
    "amax_dims": lambda x: x.amax((0, 2), keepdim=True),
    "amin": lambda x: x.amin(1),
    "max": torch.max,
    "min": torch.min,
    "max_dim": lambda x: x.max(1).values,
    "min_dim": lambda x: x.min(-1, keepdim=True).values,
    "topk": lambda x: x.topk(2, 1).values,
    "var": lambda x: x.var(1),
    "var_biased": lambda x: x.var((0, 1), correction=0, keepdim=True),
    "std": lambda x: x.std(2),
    "norm": lambda x: torch.linalg.vector_norm(x),
    "norm1": lambda x: torch.linalg.vector_norm(x, 1, dim=1),
    "norm3": lambda x: torch.linalg.vector_norm(x, 3, dim=1, keepdim=True),
    "norm_inf": lambda x: torch.linalg.vector_norm(x, float("inf"), dim=1),
    "logsumexp": lambda x: x.logsumexp(1),
    "cumsum": lambda x: x.cumsum(1),
}


def test_extremes_of_nothing_but_infinities() -> None:
    x = rand(3, 4, 5)
    x[0, 1] = -math.inf
    x[1] = math.inf
    x[2, :, 2] = -torch.finfo().max
    check(lambda x: (x.amax(2), x.amin(2), x.amax(1), x.amin((1, 2), keepdim=True), x[0, 1].max()), x)
    check(lambda x: (torch.max(x), torch.min(x)), torch.full((7,), -math.inf))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name: str) -> None:
    check_grad(REDUCTIONS[name], rand(3, 4, 5))


def test_reductions_without_gradient() -> None:
    x = rand(3, 4, 5)
    check(
        lambda x: (x.argmax(), x.argmax(1), x.argmin(-1, keepdim=True), x.max(1).indices, x.min(0).indices), x
    )
    check(
        lambda x: ((x > 1).any(), (x > 1).any(1), (x > -1).all(), (x > -1).all(2), *torch.var_mean(x, 1)), x
    )
    check(lambda x: (x.prod(), x.prod(1)), x)
    check(lambda i: (i.sum(), i.sum(0), i.cumsum(1), i.bool().sum(), i.amax(1), i.prod(1)), ints(5, 3, 4))
    check(lambda i: i.argmax(1), ints(3, 6, 9))  # ties: the first


# ---------------------------------------------------------------- normalisation


@pytest.mark.parametrize("shape", [(2, 5, 8), (3, 7), (2, 3, 4, 5)])
def test_layer_norm(shape: tuple[int, ...]) -> None:
    size = shape[-1:]
    check_grad(lambda x, w, b: F.layer_norm(x, size, w, b), rand(*shape), rand(*size), rand(*size, seed=3))
    check_grad(lambda x: F.layer_norm(x, size), rand(*shape) + 3)
    check(lambda x: aten.native_layer_norm(x, size, None, None, 1e-5), rand(*shape))


def test_layer_norm_over_two_dimensions() -> None:
    check_grad(lambda x, w, b: F.layer_norm(x, (4, 5), w, b), rand(3, 4, 5), rand(4, 5), rand(4, 5, seed=2))


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm(groups: int) -> None:
    check_grad(lambda x, w, b: F.group_norm(x, groups, w, b), rand(2, 6, 3, 5), rand(6), rand(6, seed=1))
    check_grad(lambda x: F.group_norm(x, groups), rand(2, 6, 4))


def test_batch_norm_with_running_statistics() -> None:
    args = rand(2, 6, 3, 5), rand(6), rand(6, low=0.5), rand(6, seed=1), rand(6, seed=2)
    check_grad(lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b), *args, wanted=(0, 3, 4))
    check(lambda x, m, v, w, b: aten._native_batch_norm_legit_no_training(x, w, b, m, v, 0.1, 1e-3)[0], *args)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_softmax(dim: int) -> None:
    check_grad(lambda x: x.softmax(dim), 3 * rand(4, 6, 5))
    check_grad(lambda x: x.log_softmax(dim), 3 * rand(4, 6, 5))


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("space", [(), (3, 2)])
def test_cross_entropy(reduction: str, weighted: bool, space: tuple[int, ...]) -> None:
    x, y = rand(6, 5, *space), ints(5, 6, *space)
    y[1] = -100
    weight = rand(5, low=0.1) if weighted else None
    if weight is None:
        check_grad(lambda x, y: F.cross_entropy(x, y, reduction=reduction), x, y)
    else:
        check_grad(lambda x, y, w: F.cross_entropy(x, y, w, reduction=reduction), x, y, weight, wanted=(0,))


def test_cross_entropy_ignores_an_index_and_smooths_labels() -> None:
    x, y = rand(6, 5), ints(5, 6)
    check_grad(lambda x, y: F.cross_entropy(x, y, ignore_index=2), x, y)
    check_grad(lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1), x, y)
    check_grad(lambda x, y: F.cross_entropy(x, y, ignore_index=7), x, torch.full_like(y, 7))  # NaN, as ATen


REGRESSION = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "smooth_l1": lambda a, b, **k: F.smooth_l1_loss(a, b, beta=0.5, **k),
    "huber": lambda a, b, **k: F.huber_loss(a, b, delta=0.7, **k),
    "bce": lambda a, b, **k: F.binary_cross_entropy(a.sigmoid(), b.sigmoid(), **k),
    "bce_logits": lambda a, b, **k: F.binary_cross_entropy_with_logits(a, b.sigmoid(), **k),
    "kl": lambda a, b, **k: F.kl_div(a.log_softmax(1), b.softmax(1), **k),
}


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", REGRESSION)
def test_regression_losses(name: str, reduction: str) -> None:
    function = REGRESSION[name]
    check_grad(lambda a, b: function(a, b, reduction=reduction), rand(4, 3), rand(4, 3, seed=5), wanted=(0,))


# ---------------------------------------------------------------- indexing


@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("rows", [4, 300])
def test_embedding(rows: int, padding_idx: int | None) -> None:
    index = ints(4, 3, 5)
    check_grad(lambda i, w: F.embedding(i, w, padding_idx), index, rand(rows, 8))


def test_indexing() -> None:
    x, i = rand(4, 5, 6), torch.tensor([0, 3, 1])
    check_grad(lambda x, i: x.index_select(0, i), x, i)
    check_grad(lambda x, i: x.index_select(-1, i), x, i)
    check_grad(lambda x, i: x[i], x, i)
    check_grad(lambda x, i: x[:, i - 2], x, i)  # negative
    check_grad(lambda x, i: x[i, i], x, i)
    check_grad(lambda x, i: x[i, :, i], x, i)
    check_grad(lambda x, i: x[:, i[:, None], i - 3], x, i)
    check_grad(lambda x, i: x.gather(1, i.expand(4, 2, 3)), x, i)
    check_grad(lambda x, i: x.gather(2, i.expand(2, 3, 3)), x, i)


def test_scatters() -> None:
    x, i, s = rand(4, 5, 6), torch.tensor([0, 3, 1]), rand(4, 3, 6)
    check_grad(lambda x, i, s: x.index_copy(1, i, s), x, i, s)
    check_grad(lambda x, i, s: x.index_add(1, i, s, alpha=0.5), x, i, s)
    check(lambda x, i, s: x.index_add(1, i * 0, s), x, i, s)
    check(lambda x, i: x.index_fill(1, i, 2.0), x, i)
    check_grad(lambda x, i, s: x.scatter(1, i.view(1, 3, 1).expand(4, 3, 6), s), x, i, s)
    check_grad(lambda x, i, s: x.scatter_add(1, (0 * i).view(1, 3, 1).expand(4, 3, 6), s), x, i, s)
    check(lambda x, i, s: x.scatter(1, i.view(1, 3, 1).expand(2, 3, 4), s), x, i, s)
    check_grad(lambda x, i: x.scatter(1, i.view(1, 3, 1).expand(4, 3, 6), 1.5), x, i)


def test_index_put() -> None:
    x, i = rand(4, 5, 6), torch.tensor([0, 3, 1])
    put = aten.index_put.default
    check(lambda x, i, v: put(x, [i], v), x, i, rand(3, 5, 6))
    check(lambda x, i, v: put(x, [i * 0], v, True), x, i, rand(3, 5, 6))
    check(lambda x, i, v: put(x, [None, i - 2], v, True), x, i, rand(4, 3, 6))
    check(lambda x, i, v: put(x, [i, None, i], v), x, i, rand(3, 5))
    check(lambda x, i, v: put(x, [i, i], v), x, i, torch.tensor(2.0))


# ---------------------------------------------------------------- pooling


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
def test_max_pool(kernel: Any, stride: Any, padding: Any, dilation: int, ceil: bool) -> None:
    x = rand(2, 3, 9, 10)
    check_grad(lambda x: F.max_pool2d(x, kernel, stride, padding, dilation, ceil), x)
    check_grad(lambda x: F.max_pool2d(x.round(), kernel, stride, padding, dilation, ceil), x)  # ties


def test_max_pool1d() -> None:
    check_grad(lambda x: F.max_pool1d(x, 3, 2, 1), rand(2, 3, 9))


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
    kernel: Any, stride: Any, padding: Any, ceil: bool, include: bool, divisor: int | None
) -> None:
    check_grad(lambda x: F.avg_pool2d(x, kernel, stride, padding, ceil, include, divisor), rand(2, 3, 9, 10))


@pytest.mark.parametrize("out", [(1, 1), (2, 5), (3, 4), (7, 7)])
def test_adaptive_avg_pool(out: tuple[int, int]) -> None:
    check_grad(lambda x: F.adaptive_avg_pool2d(x, out), rand(2, 3, 6, 10))


@pytest.mark.parametrize("size", [(12, 20), (7, 13), (3, 5)])
def test_upsampling(size: tuple[int, int]) -> None:
    x = rand(2, 3, 6, 10)
    check_grad(lambda x: F.interpolate(x, size, mode="nearest"), x)
    check_grad(lambda x: F.interpolate(x, size, mode="bilinear"), x)
    check_grad(lambda x: F.interpolate(x, size, mode="bilinear", align_corners=True), x)
    check_grad(lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"), x)
    check_grad(lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"), x)


def test_expansions_are_left_to_broadcasting() -> None:
    """As in the backward of a mean: no tensor of repeated numbers is made."""

    def function(dy: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (dy[:, :, None, None].expand(2, 3, 4, 5) / 20).masked_fill(y <= 0, 0.0)

    args = rand(2, 3), rand(2, 3, 4, 5)
    check(function, *args)
    assert "Broadcast" not in {n.get_type_name() for n in lower(graph_of(function, *args)).get_ops()}
    check(lambda a, b: (a.expand(4, 3) + b.expand(4, 3), a.expand(4, 3) * 2), rand(1, 3), rand(4, 1))
