"""Every operator rule of the OpenVINO target against eager PyTorch running the same ATen graph."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from pockgraph.errors import PockError, UnsupportedOperators
from pockgraph.graph import Graph, Role, Slot, dtype_name, meta_like
from pockgraph.targets import get_target, require_supported, target_names
from pockgraph.targets.openvino import RULES, TARGET, lower
from pockgraph.targets.openvino import weight_gradient as conv
from pockgraph.targets.openvino.emit import ov

aten = torch.ops.aten

# Largest error an output may have, relative to its largest element.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5, torch.int64: 0, torch.int32: 0, torch.bool: 0}
CONFIG = {"INFERENCE_PRECISION_HINT": "f32"}
CORE = ov.Core()


# ---------------------------------------------------------------- making graphs of functions


def traced(function: Callable[..., Any], *args: torch.Tensor) -> fx.Graph:
    """The ATen graph of `function`, with the metadata that the engine keeps."""
    module = make_fx(function)(*args)
    module = make_fx(torch.func.functionalize(module))(*args)  # autograd's formulas may work in place
    module.graph.eliminate_dead_code()
    for node in module.graph.nodes:
        node.meta = {
            "val": meta_like(node.meta.get("val")),
            "phase": "forward",
            "layer": "tested",
            "source": "test.py:1",
        }
    return module.graph


def graph_of(function: Callable[..., Any], *args: torch.Tensor) -> Graph:
    """A graph whose inputs are batch entries and whose outputs are gradients named by position."""
    graph = traced(function, *args)
    output = graph.output_node()
    values = output.args[0] if isinstance(output.args[0], tuple | list) else (output.args[0],)
    output.args = (tuple(v for v in values if v is not None),)
    inputs = [Slot(Role.BATCH, f"a{i}", tuple(a.shape), dtype_name(a.dtype)) for i, a in enumerate(args)]
    outputs = []
    for i, node in enumerate(output.args[0]):
        val = node.meta["val"]
        outputs.append(Slot(Role.GRAD, f"out{i}", tuple(val.shape), dtype_name(val.dtype)))
    return Graph(graph, tuple(inputs), tuple(outputs), {})


def run_openvino(graph: Graph, *args: torch.Tensor) -> list[torch.Tensor]:
    assert not TARGET.unsupported(graph)
    compiled = CORE.compile_model(lower(graph), "CPU", CONFIG)
    feeds = {f"batch:a{i}": a.contiguous().numpy() for i, a in enumerate(args)}
    feeds = {k: v for k, v in feeds.items() if k in {n for p in compiled.inputs for n in p.get_names()}}
    results = compiled(feeds)
    return [torch.from_numpy(np.array(results[s.name])) for s in graph.outputs]


def assert_close(got: torch.Tensor, expected: torch.Tensor, what: str = "") -> None:
    assert got.shape == expected.shape, what
    assert got.dtype == expected.dtype, what
    assert torch.equal(got.isnan(), expected.isnan()), what
    got, expected = (v.double().nan_to_num() for v in (got, expected))
    error = (got - expected).abs().max().item() if got.numel() else 0.0
    scale = expected.abs().max().item() if got.numel() else 0.0
    assert error <= TOLERANCE[torch.float32] * scale, f"{what}: error {error:.3g}, largest {scale:.3g}"


def check(function: Callable[..., Any], *args: torch.Tensor) -> None:
    """`function` must give the same through OpenVINO as its ATen graph gives in eager PyTorch."""
    graph = graph_of(function, *args)
    expected = fx.Interpreter(fx.GraphModule(torch.nn.Module(), graph.fx)).run(*args)
    for slot, a, b in zip(graph.outputs, run_openvino(graph, *args), expected, strict=True):
        if b.dtype in (torch.int64, torch.bool):
            assert torch.equal(a.to(b.dtype), b), f"{slot.name}: {a} is not {b}"
        else:
            assert_close(a, b, slot.name)


def with_grad(function: Callable[..., torch.Tensor], *wanted: int) -> Callable[..., Any]:
    """`function` with the gradients of its arguments (all, or those at `wanted`), as autograd traces them."""

    def run(dy_seed: torch.Tensor, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        at = wanted or [i for i, a in enumerate(args) if a.is_floating_point()]
        leaves = [a.detach().requires_grad_(i in at) for i, a in enumerate(args)]
        y = function(*leaves)
        return (y, *torch.autograd.grad(y, [leaves[i] for i in at], dy_seed))

    return run


def check_grad(function: Callable[..., torch.Tensor], *args: torch.Tensor, wanted: tuple[int, ...] = ()) -> None:
    y = function(*args)
    torch.manual_seed(1)
    check(with_grad(function, *wanted), torch.randn_like(y), *args)


def rand(*shape: int, seed: int = 0, low: float | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    x = torch.randn(shape, generator=generator)
    return x if low is None else x.abs() + low


def ints(high: int, *shape: int, low: int = 0) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(high))


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


@pytest.mark.parametrize("shapes", [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 1)), ((2, 1, 4), (5, 1)), ((), (3,))])
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
    check(lambda a, b: (a + b, a - b, a * b, a // b, a % b, torch.fmod(a, b), -a, a.abs(), 2 * a, a + 1), a, b)
    check(lambda a, b: (a + b * 0.5, a / b, a + 1.5, torch.fmod(a * 1.5, b * 0.71), (a * 1.5) % (b * 0.71)), a, b)
    check(lambda a, b: (a & b, a | b, a ^ b, ~a, a.clamp(-2, 3), torch.maximum(a, b)), a, b)


def test_comparisons_promote_their_operands() -> None:
    a, b = ints(4, 60), ints(4, 60).float() + 0.5
    c = ints(4, 60).flip(0)
    check(lambda a, b: (a == b, a != b, a < b, a <= b, a > b, a >= b, a < 2.5, a == 2), a, b)
    check(lambda a, c: (a == c, a != c, a < c, a <= c, a > c, a >= c), a, c)


def test_logic() -> None:
    a, b = ints(2, 20).bool(), ints(2, 20).flip(0).bool()
    check(lambda a, b: (a & b, a | b, a ^ b, ~a, a.logical_and(b), a.logical_or(b), a.logical_not()), a, b)
    check(lambda a, b: (a * b, a + b, a.float(), a.long() + 1, a.logical_xor(b)), a, b)
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
    model = lower(graph)
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


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name: str) -> None:
    check_grad(REDUCTIONS[name], rand(3, 4, 5))


def test_reductions_without_gradient() -> None:
    x = rand(3, 4, 5)
    check(lambda x: (x.argmax(), x.argmax(1), x.argmin(-1, keepdim=True), x.max(1).indices, x.min(0).indices), x)
    check(lambda x: ((x > 1).any(), (x > 1).any(1), (x > -1).all(), (x > -1).all(2), *torch.var_mean(x, 1)), x)
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
    check(
        lambda x, m, v, w, b: aten._native_batch_norm_legit_no_training(x, w, b, m, v, 0.1, 1e-3)[0], *args
    )


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
    [(2, 2, 0, 1, False), (3, 2, 1, 1, False), (3, 2, 1, 1, True), (3, 1, 1, 2, False), ((2, 3), (3, 2), (1, 0), 1, True)],
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
def test_avg_pool(kernel: Any, stride: Any, padding: Any, ceil: bool, include: bool, divisor: int | None) -> None:
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
    natural = [
        (o - 1) * s[i] - 2 * p[i] + d[i] * (w.shape[2 + i] - 1) + 1 for i, o in enumerate(y.shape[2:])
    ]
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
        dy, x, w, None, g.stride, g.before, g.dilation, False, [0] * len(g.kernel), g.groups, [False, True, False]
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
    g = conv.Geometry.of(w.shape[2:], *((v,) if isinstance(v, int) else v for v in (stride, padding, dilation)), groups)
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


# ---------------------------------------------------------------- state


def stateful_graph(x: torch.Tensor, t: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> Graph:
    """loss of relu(x @ w + b), and an SGD step with momentum on w; b is constant."""

    def step(x: torch.Tensor, t: torch.Tensor, lr: torch.Tensor, w: torch.Tensor, b: torch.Tensor, m: torch.Tensor) -> Any:
        leaf = w.detach().requires_grad_()
        loss = F.cross_entropy(torch.relu(x @ leaf + b), t)
        (dw,) = torch.autograd.grad(loss, [leaf])
        m = 0.9 * m + dw
        return loss, w - lr * m, m

    lr, m = torch.tensor(0.1), torch.zeros_like(w)
    slots = (
        Slot(Role.BATCH, "x", tuple(x.shape), "float32"),
        Slot(Role.BATCH, "t", tuple(t.shape), "int64"),
        Slot(Role.LR, "", (), "float32"),
        Slot(Role.PARAM, "w", tuple(w.shape), "float32", trained=True),
        Slot(Role.PARAM, "b", tuple(b.shape), "float32"),
        Slot(Role.OPT_STATE, "w", tuple(w.shape), "float32", key="momentum_buffer"),
    )
    outputs = (
        Slot(Role.LOSS, "", (), "float32"),
        Slot(Role.NEW_PARAM, "w", tuple(w.shape), "float32"),
        Slot(Role.NEW_OPT_STATE, "w", tuple(w.shape), "float32", key="momentum_buffer"),
    )
    fx_graph = traced(step, x, t, lr, w, b, m)
    output = fx_graph.output_node()
    output.args = (tuple(output.args[0]),)
    return Graph(fx_graph, slots, outputs, {"trained:w": w, "param:b": b, "opt_state:w:momentum_buffer": m})


def test_state_is_kept_between_steps(tmp_path: Path) -> None:
    x, t, w, b = rand(8, 5), ints(3, 8), rand(5, 3), rand(3)
    graph = stateful_graph(x, t, w, b)
    TARGET.write(graph, tmp_path, "train", {})
    # No state is stored: its initial value is whoever's who runs the step.
    assert (tmp_path / "train.bin").stat().st_size < 200
    request = CORE.compile_model(CORE.read_model(tmp_path / "train.xml"), "CPU", CONFIG).create_infer_request()
    states = {s.name: s for s in request.query_state()}
    assert set(states) == {"trained:w", "opt_state:w:momentum_buffer"}
    for name, state in states.items():
        state.state = ov.Tensor(graph.values[name].numpy())

    parameter = torch.nn.Parameter(w.clone())
    sgd = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    for _ in range(3):
        loss = F.cross_entropy(torch.relu(x @ parameter + b), t)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        got = request.infer({"batch:x": x.numpy(), "batch:t": t.numpy(), "lr": np.float32(0.1)})
        assert_close(torch.from_numpy(np.array(got["loss"])), loss.detach(), "loss")
        assert_close(torch.from_numpy(states["trained:w"].state.data.copy()), parameter.detach(), "w")
    momentum = torch.from_numpy(states["opt_state:w:momentum_buffer"].state.data.copy())
    assert_close(momentum, sgd.state[parameter]["momentum_buffer"], "momentum")


def test_eval_graph_reads_state_that_is_set_from_outside() -> None:
    x, w = rand(4, 5), rand(5, 3)
    slots = (Slot(Role.BATCH, "x", (4, 5), "float32"), Slot(Role.PARAM, "w", (5, 3), "float32", trained=True))
    outputs = (Slot(Role.METRIC, "", (4,), "float32"),)
    fx_graph = traced(lambda x, w: ((x @ w).amax(1),), x, w)
    fx_graph.output_node().args = (tuple(fx_graph.output_node().args[0]),)
    graph = Graph(fx_graph, slots, outputs, {"trained:w": w})
    request = CORE.compile_model(lower(graph), "CPU", CONFIG).create_infer_request()
    for factor in (1, 2):
        (state,) = request.query_state()
        state.state = ov.Tensor((factor * w).numpy())
        for _ in range(2):
            got = request.infer({"batch:x": x.numpy()})["metric"]
            assert_close(torch.from_numpy(np.array(got)), (x @ (factor * w)).amax(1), "metric")


def test_a_step_runs_where_torch_is_absent(tmp_path: Path) -> None:
    """And nothing of OpenVINO's telemetry is imported."""
    import subprocess
    import sys

    TARGET.write(stateful_graph(rand(8, 5), ints(3, 8), rand(5, 3), rand(3)), tmp_path, "train", {})
    code = f"""
import sys
sys.modules["torch"] = None
sys.modules["openvino.tools.ovc"] = None
import numpy as np, openvino as ov
request = ov.compile_model({str(tmp_path / "train.xml")!r}, "CPU").create_infer_request()
for s in request.query_state():
    s.state = ov.Tensor(np.zeros(s.state.shape, np.float32))
loss = request.infer({{"batch:x": np.zeros((8, 5), np.float32), "batch:t": np.zeros(8, np.int64), "lr": np.float32(1)}})
assert not [m for m in sys.modules if "telemetry" in m]
print(float(loss["loss"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert np.isfinite(float(done.stdout))


# ---------------------------------------------------------------- names, and what is not supported


def test_nodes_are_named_after_phase_layer_and_node() -> None:
    model = lower(graph_of(lambda x, w: F.conv2d(x, w).relu(), rand(1, 3, 5, 5), rand(4, 3, 1, 1)))
    names = {n.get_friendly_name() for n in model.get_ops()}
    assert {"forward/tested/convolution", "forward/tested/relu", "batch:a0", "grad:out0"} <= names


def test_every_unsupported_operator_is_listed_with_its_reason() -> None:
    graph = graph_of(
        lambda x, m: (
            torch.linalg.inv(x),
            x.bfloat16().float(),
            F.max_pool2d(x[None], 2, return_indices=True)[1],
            torch.fft.fft(x).real,
        ),
        rand(4, 4),
        ints(2, 4, 4).bool(),
    )
    missing = {u.op: u for u in TARGET.unsupported(graph)}
    assert {"aten.linalg_inv_ex.default", "aten._to_copy.default", "aten.max_pool2d_with_indices.default"} <= set(missing)
    assert missing["aten.linalg_inv_ex.default"].layer == "tested"
    assert missing["aten.linalg_inv_ex.default"].source == "test.py:1"
    assert "bfloat16" in missing["aten._to_copy.default"].reason
    assert "indices" in missing["aten.max_pool2d_with_indices.default"].reason
    with pytest.raises(UnsupportedOperators, match=r"linalg_inv_ex[\s\S]*compile for another target"):
        require_supported(TARGET, {"train": graph})


def test_arguments_that_a_rule_cannot_take() -> None:
    graph = graph_of(lambda i, w: F.embedding(i, w, scale_grad_by_freq=True), ints(3, 4), rand(3, 2))
    assert not TARGET.unsupported(graph)
    graph = graph_of(lambda g, i: aten.embedding_dense_backward(g, i, 3, -1, True), rand(4, 2), ints(3, 4))
    assert "scale_grad_by_freq" in TARGET.unsupported(graph)[0].reason


def test_unknown_targets_and_options(tmp_path: Path) -> None:
    assert set(target_names()) == {"openvino", "torch"}
    with pytest.raises(PockError, match=r"Did you mean 'openvino'"):
        get_target("openvno")
    with pytest.raises(PockError, match=r"has no option 'precision'"):
        TARGET.write(graph_of(torch.neg, rand(2)), tmp_path, "train", {"precision": "bf16"})


def test_every_rule_is_of_an_operator() -> None:
    assert all(isinstance(o, torch._ops.OpOverload) for o in RULES)
    assert operator.getitem not in RULES


def test_expansions_are_left_to_broadcasting() -> None:
    """As in the backward of a mean: no tensor of repeated numbers is made."""

    def function(dy: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (dy[:, :, None, None].expand(2, 3, 4, 5) / 20).masked_fill(y <= 0, 0.0)

    args = rand(2, 3), rand(2, 3, 4, 5)
    check(function, *args)
    assert "Broadcast" not in {n.get_type_name() for n in lower(graph_of(function, *args)).get_ops()}
    check(lambda a, b: (a.expand(4, 3) + b.expand(4, 3), a.expand(4, 3) * 2), rand(1, 3), rand(4, 1))


@pytest.mark.parametrize("shape", [(64, 64), (64, 32)])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_a_constant_matrix_is_used_as_it_is_and_transposed(
    shape: tuple[int, int], batch: tuple[int, ...], tmp_path: Path
) -> None:
    """OpenVINO packs it for one of the two and would take that for the other when it is square."""
    w = rand(*batch, *shape)
    x, dy = rand(*batch, 16, shape[1], seed=1), rand(*batch, 16, shape[0], seed=2)
    function = lambda x, dy, w: (x @ w.transpose(-1, -2), dy @ w)  # noqa: E731
    graph = graph_of(function, x, dy, w)
    slots = (*graph.inputs[:2], Slot(Role.PARAM, "w", tuple(w.shape), "float32"))
    TARGET.write(Graph(graph.fx, slots, graph.outputs, {"param:w": w}), tmp_path, "g", {})
    compiled = CORE.compile_model(CORE.read_model(tmp_path / "g.xml"), "CPU", CONFIG)
    results = compiled({"batch:a0": x.numpy(), "batch:a1": dy.numpy()})
    for slot, expected in zip(graph.outputs, function(x, dy, w)):
        assert_close(torch.from_numpy(np.array(results[slot.name])), expected, slot.name)
