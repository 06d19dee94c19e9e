"""What operators stand for: their expansions, run by PyTorch, give what the operators give.

No runtime takes part: a target is played by one that refuses everything that has an expansion.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import expansion_snapshot
import pytest
import torch
import torch.nn.functional as F
from expansion_snapshot import formula
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from pockgraph.ir.graph import Graph, Role, Slot, dtype_name, meta_like
from pockgraph.ir.interpreter import interpret
from pockgraph.passes.legalize import Legalize, resampling
from pockgraph.passes.legalize.indexing import is_of_rows
from pockgraph.passes.legalize.table import EXPANSIONS

aten = torch.ops.aten


# Operators without an expansion of ours, because PyTorch's own does as well.
OF_PYTORCH = {
    aten.mse_loss.default, aten.mse_loss_backward.default, aten.smooth_l1_loss.default,
    aten.smooth_l1_loss_backward.default, aten.huber_loss.default, aten.huber_loss_backward.default,
    aten.binary_cross_entropy_backward.default, aten.sigmoid_backward.default, aten.tanh_backward.default,
    aten.hardswish_backward.default, aten.leaky_relu_backward.default,
    aten.softplus_backward.default, aten.threshold.default, aten.silu.default, aten.mish.default,
    aten.mish_backward.default, aten.square.default, aten.addcmul.default, aten.addcdiv.default,
    aten.xlogy.Tensor, aten.floor_divide.default, aten.std.correction, aten.logsumexp.default,
    aten.fill.Tensor,
}  # fmt: skip
# Those of them whose example is one of `CASES`.
OF_PYTORCH_IN_CASES = {
    aten._log_softmax_backward_data.default, aten.stack.default, aten.tril.default, aten.triu.default,
    aten.pixel_shuffle.default, aten.pixel_unshuffle.default, aten.baddbmm.default, aten.dot.default,
}  # fmt: skip
DIVISIONS = (
    aten.div.Tensor_mode, aten.div.Scalar_mode, aten.remainder.Tensor, aten.remainder.Scalar
)  # fmt: skip
EXPANDED = EXPANSIONS.keys() | OF_PYTORCH | OF_PYTORCH_IN_CASES


def is_expanded(node: fx.Node) -> bool:
    """Every target divides integers, and changes rows of a matrix."""
    if node.target in DIVISIONS and not node.meta["val"].is_floating_point():
        return False
    if node.target in (aten.index_add.default, aten.index_copy.default) and is_of_rows(node):
        return False
    return node.target in EXPANDED


def refusal(node: fx.Node) -> str:
    return "no such operator" if is_expanded(node) else ""


LEGALIZE = Legalize(refusal)


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(math.prod(shape)))


def ints(high: int, *shape: int) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(1))


def graph_of(function: Callable[..., Any], *args: Tensor) -> Graph:
    """`function` and the gradients of its floating-point arguments, as autograd traces them."""

    def with_gradients(*given: Tensor) -> tuple[Tensor, ...]:
        leaves = [a.detach().requires_grad_() if a.is_floating_point() else a for a in given]
        results = function(*leaves)
        results = results if isinstance(results, tuple) else (results,)
        wanted = [a for a in leaves if a.requires_grad]
        heads = [r for r in results if r.requires_grad]
        if not heads:
            return results
        weights = [torch.cos(torch.arange(r.numel(), dtype=r.dtype)).view(r.shape) for r in heads]
        grads = torch.autograd.grad(heads, wanted, weights, allow_unused=True)
        return (*results, *(g for g in grads if g is not None))

    module = make_fx(with_gradients)(*args)
    graph = make_fx(torch.func.functionalize(module))(*args).graph
    graph.eliminate_dead_code()
    for node in graph.nodes:
        node.meta = {"val": meta_like(node.meta.get("val")), "phase": "forward", "layer": "", "source": ""}
        assert node.op != "get_attr", "give constants as arguments"
    inputs = tuple(Slot(Role.BATCH, f"a{i}", tuple(a.shape), dtype_name(a.dtype)) for i, a in enumerate(args))
    outputs = tuple(
        Slot(Role.METRIC, str(i), tuple(n.meta["val"].shape), dtype_name(n.meta["val"].dtype), key=str(i))
        for i, n in enumerate(graph.output_node().args[0])
    )
    return Graph(graph, inputs, outputs, {})


def graph_of_call(overload: Any, *args: Any, **options: Any) -> tuple[Graph, list[Tensor]]:
    """One call of an operator that tracing takes apart, and its tensors."""
    graph, tensors = fx.Graph(), [a for a in args if isinstance(a, Tensor)]
    given = iter([graph.placeholder(f"a{i}") for i in range(len(tensors))])
    node = graph.call_function(
        overload, tuple(next(given) if isinstance(a, Tensor) else a for a in args), options
    )
    graph.output((node,))
    inputs = [Slot(Role.BATCH, f"a{i}", tuple(a.shape), dtype_name(a.dtype)) for i, a in enumerate(tensors)]
    values = [*tensors, overload(*args, **options)]
    for inner, value in zip(graph.nodes, values):
        inner.meta = {"val": meta_like(value), "phase": "forward", "layer": "", "source": ""}
    output = Slot(Role.METRIC, "", tuple(values[-1].shape), dtype_name(values[-1].dtype))
    return Graph(graph, tuple(inputs), (output,), {}), tensors


def run(graph: Graph, *args: Tensor) -> list[Tensor]:
    inputs = dict(zip((s.name for s in graph.inputs if s.role is Role.BATCH), args))
    feeds = [inputs[s.name] if s.name in inputs else graph.values[s.name] for s in graph.inputs]
    return list(fx.Interpreter(nn.Module(), graph=graph.fx).run(*feeds))


def assert_expands(function: Callable[..., Any], *args: Tensor, tolerance: float = 2e-6) -> set[Any]:
    """The expanded graph gives the same; which operators were expanded."""
    return assert_graph_expands(graph_of(function, *args), *args, tolerance=tolerance)


def assert_graph_expands(graph: Graph, *args: Tensor, tolerance: float = 2e-6) -> set[Any]:
    legal = LEGALIZE(graph)
    legal.validate()
    expanded = {n.target for n in graph.nodes() if is_expanded(n)}
    assert not [n for n in legal.nodes() if is_expanded(n)]
    for got, wanted in zip(run(legal, *args), run(graph, *args), strict=True):
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype
        if not wanted.is_floating_point():
            assert torch.equal(got, wanted), f"{got} is not {wanted}"
            continue
        assert torch.equal(got.isnan(), wanted.isnan()), f"{got} is not {wanted}"
        assert torch.equal(got.isinf(), wanted.isinf()), f"{got} is not {wanted}"
        size = float(wanted.nan_to_num(0, 0, 0).abs().max()) if wanted.numel() else 0.0
        error = float((got - wanted).nan_to_num(0, 0, 0).abs().max()) if wanted.numel() else 0.0
        assert error <= tolerance * max(size, 1e-30), f"off by {error} of {size}"
    return expanded


def with_ignored(high: int, *shape: int) -> Tensor:
    """Labels, the first of which stands for none."""
    labels = ints(high, *shape)
    labels.view(-1)[0] = -100
    return labels


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


EDGES = torch.tensor(
    [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1e-20, -1e-20, 3.0, 1e15, math.inf, -math.inf, math.nan]
)
INSIDE = torch.linspace(-0.999, 0.999, 41)
BAGS = torch.tensor([0, 2])
grid = 1.3 * rand(2, 3, 4, 2)
grid3 = 1.3 * rand(2, 2, 3, 2, 3)

CASES: dict[str, tuple[Any, ...]] = {
    "asin": (torch.asin, INSIDE),
    "acos": (torch.acos, INSIDE),
    "acos_ends": (lambda x: torch.acos(x.detach()), torch.tensor([1.0, -1.0, 2.0])),
    "atan2": (torch.atan2, rand(40), rand(40).flip(0)),
    "atan2_edges": (
        lambda x: torch.atan2(x[:, None].detach(), x.detach()), EDGES[:10],
    ),
    "asinh": (torch.asinh, torch.cat([rand(20), torch.tensor([0.0, 1e-8, -1e12, 1e25])])),
    "acosh": (torch.acosh, torch.cat([1.01 + rand(20).abs(), torch.tensor([1e12, 1e25])])),
    "atanh": (torch.atanh, INSIDE),
    **{
        name: (function, rand(40).abs() + 0.1)
        for name, function in {
            "log2": torch.log2,
            "log10": torch.log10,
            "log1p": torch.log1p,
            "floor_divide": lambda x: torch.floor_divide(x.detach(), 0.3),
        }.items()
    },
    "log1p_small": (torch.log1p, torch.logspace(-7, -3, 20)),
    "log1p_integers": (lambda x: torch.log1p(x), ints(5, 7)),
    "expm1": (torch.expm1, 3 * rand(40)),
    "expm1_small": (torch.expm1, torch.logspace(-7, -3, 20)),
    "expm1_integers": (lambda x: torch.expm1(x), ints(5, 7)),
    "not_finite": (lambda x: (x.isnan(), x.isinf(), x.isfinite()), EDGES),
    "lerp": (lambda x, y: x.lerp(y, 0.3), rand(4, 5), rand(5)),
    "lerp_by_tensor": (lambda x, y: x.lerp(y, y), rand(4, 5), rand(5)),
    "addcmul": (lambda x, y: x.addcmul(y, y, value=0.3), rand(4, 5), rand(5)),
    "addcdiv": (lambda x, y: x.addcdiv(x, y, value=0.3), rand(4, 5), rand(5)),
    "xlogy": (lambda x, y: torch.xlogy(x.detach().round(), y.detach().abs()), 2 * rand(40), rand(40).flip(0)),
    "copy": (lambda x, y: aten.copy.default(x.detach(), y), rand(4, 5), ints(9, 5)),
    "fill": (lambda x, y: aten.fill.Tensor(x.detach(), y), rand(4, 5), torch.tensor(2)),
    **{
        f"{name}_{kind}": (lambda x, y, f=function: f(x.detach(), y.detach()), *args)
        for name, function in {
            "div": lambda x, y: torch.div(x, y, rounding_mode=None),
            "div_floor": lambda x, y: torch.div(x, y, rounding_mode="floor"),
            "div_trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
            "div_floor_number": lambda x, y: aten.div.Scalar_mode(x, -0.7, rounding_mode="floor"),
            "remainder": torch.remainder,
            "remainder_number": lambda x, y: torch.remainder(x, -0.7),
        }.items()
        for kind, args in {
            "floats": (3 * rand(60), rand(60).flip(0)),
            "mixed": (ints(9, 50) - 4, torch.tensor([1.5, 2, -3, 4.5, -5] * 10)),
        }.items()
    },
    "var": (lambda x: x.var(1), rand(3, 4, 5)),
    "var_biased": (lambda x: x.var((0, -1), correction=0, keepdim=True), rand(3, 4, 5)),
    "var_of_one": (lambda x: x.detach().var(1), rand(3, 1)),
    "std": (lambda x: x.std(), rand(3, 4, 5)),
    "var_mean": (lambda x: torch.var_mean(x, (0, 2), correction=2), rand(3, 4, 5)),
    "logsumexp": (lambda x: x.logsumexp((0, 2), True), rand(3, 4, 5)),
    "logsumexp_of_infinities": (lambda x: x.detach().logsumexp(0), torch.full((3, 2), -math.inf)),
    **{
        f"norm_{order}": (
            lambda x, p=order: (torch.linalg.vector_norm(x, p), torch.linalg.vector_norm(x, p, -1, True)),
            rand(3, 4, 5),
        )
        for order in (1, 2, 3, 0.5, math.inf)
    },
    "norm_0": (lambda x: torch.linalg.vector_norm(x.detach().round(), 0, 1), rand(3, 4, 5)),
    "norm_least": (lambda x: torch.linalg.vector_norm(x.detach(), -math.inf, 1), rand(3, 4, 5)),
    "norm_to_double": (
        lambda x: torch.linalg.vector_norm(x.detach(), 2, 1, dtype=torch.float64), rand(3, 4, 5)
    ),
    "places": (
        lambda x: (x.argmax(), x.argmin(), x.argmax(1), x.argmin(-1, True), x.argmax(None, True)), rand(3, 5)
    ),
    "places_of_equals": (lambda x: (x.argmax(1), x.argmin(1)), ints(3, 6, 9)),
    "hypot": (torch.hypot, rand(30), rand(30).flip(0)),
    "copysign": (torch.copysign, rand(30), rand(30).flip(0)),
    "copysign_edges": (lambda x: torch.copysign(x.abs().detach() + 1, x.detach()), EDGES[:-1]),
    "copysign_number": (lambda x: aten.copysign.Scalar(x, -2.0), rand(5)),
    "signbit": (torch.signbit, EDGES[:-1]),
    "fmax": (torch.fmax, rand(30), rand(30).flip(0)),
    "fmax_nan": (lambda a, b: torch.fmax(a.detach(), b.detach()), EDGES, EDGES.flip(0)),
    "fmin_nan": (lambda a, b: torch.fmin(a.detach(), b.detach()), EDGES, EDGES.flip(0)),
    "exp2": (torch.exp2, rand(30)),
    "ldexp": (lambda x, i: aten.ldexp.Tensor(x.detach(), i), rand(6), ints(4, 6)),
    **{
        f"{name}_{size}": (function, size * rand(40))
        for size in (1, 30)
        for name, function in {
            "sigmoid": torch.sigmoid,
            "tanh": torch.tanh,
            "gelu": F.gelu,
            "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
            "silu": F.silu,
            "mish": F.mish,
            "hardsigmoid": F.hardsigmoid,
            "threshold": lambda x: F.threshold(x, 0.3, -1.0),
            "hardswish": F.hardswish,
            "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
            "elu": lambda x: F.elu(x, 0.7),
            "celu": lambda x: F.celu(x, 1.3),
            "selu": F.selu,
            "elu_of_result": lambda x: aten.elu_backward(x.detach(), 0.7, 1.1, 1.2, True, x.detach()),
            "softplus": lambda x: F.softplus(x, 1.5, 5),
            "log_sigmoid": F.logsigmoid,
        }.items()
    },
    "hardshrink": (F.hardshrink, rand(30)),
    "softshrink": (F.softshrink, rand(30)),
    "erfc": (torch.erfc, 3 * rand(60)),
    "erfinv": (torch.erfinv, INSIDE),
    "erfinv_ends": (lambda x: torch.erfinv(x.detach()), torch.tensor([1.0, -1.0, 0.0, 2.0, 0.9999])),
    "lgamma": (torch.lgamma, torch.cat([4 * rand(60), torch.tensor([1.0, 2.0, 0.5, 7.99, 8.0, 30.0, 1e5])])),
    "digamma": (torch.digamma, torch.cat([0.3 + 4 * rand(60).abs(), torch.tensor([1.0, -2.5, 30.0])])),
    "polygamma": (lambda x: torch.polygamma(1, x.detach()), torch.tensor([0.1, 0.5, 1, 4, 9, 50, -1.3])),
    "unfold": (lambda x: x.unfold(1, 3, 2), rand(2, 8)),
    "unfold_first": (lambda x: x.unfold(0, 2, 3), rand(7, 2)),
    "scatter_sum": (lambda x, i, s: x.scatter_reduce(1, i, s, "sum"), rand(3, 4), ints(4, 3, 5), rand(3, 5)),
    "scatter_mean": (
        lambda x, i, s: x.scatter_reduce(1, i, s, "mean"), rand(3, 4), ints(4, 3, 5), rand(3, 5)
    ),
    "scatter_mean_alone": (
        lambda x, i, s: x.scatter_reduce(1, i, s, "mean", include_self=False),
        rand(3, 4), ints(3, 3, 5), rand(3, 5),
    ),
    "scatter_amax": (
        lambda x, i, s: x.scatter_reduce(0, i, s, "amax"), rand(4, 3), ints(4, 5, 3), rand(5, 3)
    ),
    "scatter_amin_alone": (
        lambda x, i, s: x.scatter_reduce(0, i, s, "amin", include_self=False),
        rand(4, 3), ints(3, 5, 3), rand(5, 3),
    ),
    "scatter_prod": (
        lambda x, i, s: x.detach().scatter_reduce(1, i, s.detach(), "prod"),
        rand(3, 4), ints(4, 3, 5), rand(3, 5),
    ),
    "bag_sum": (lambda w, i, o: F.embedding_bag(i, w, o, mode="sum"), rand(6, 3), ints(6, 5), BAGS),
    "bag_alone": (
        lambda w, i, o: F.embedding_bag(i, w.detach(), o, mode="sum"), rand(6, 3), ints(6, 5), BAGS
    ),
    "bag_mean": (lambda w, i, o: F.embedding_bag(i, w, o), rand(6, 3), ints(6, 5), BAGS),
    "bag_weighted": (
        lambda w, p, i, o: F.embedding_bag(i, w, o, mode="sum", per_sample_weights=p),
        rand(6, 3), rand(5), ints(6, 5), BAGS,
    ),
    "bag_padded": (
        lambda w, i, o: F.embedding_bag(i, w, o, padding_idx=2, include_last_offset=True),
        rand(6, 3), ints(6, 5), torch.tensor([0, 2, 5]),
    ),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (4, 5), w, b), rand(3, 4, 5), rand(4, 5), rand(4, 5) + 1),
    "layer_norm_alone": (lambda x: F.layer_norm(x, (5,)), rand(4, 5) + 3),
    "group_norm": (lambda x, w, b: F.group_norm(x, 2, w, b), rand(2, 6, 3, 5), rand(6), rand(6) + 1),
    "group_norm_alone": (lambda x: F.group_norm(x, 3), rand(2, 6, 4) + 3),
    "softmax": (lambda x: x.softmax(1), 3 * rand(4, 6, 5)),
    "log_softmax": (lambda x: x.log_softmax(1), 3 * rand(4, 6, 5)),
    "embedding": (lambda i, w: F.embedding(i, w), ints(6, 3, 5), rand(6, 4)),
    "embedding_padded": (lambda i, w: F.embedding(i, w, 2), ints(6, 3, 5), rand(6, 4)),
    "index": (lambda x, i: x[:, i - 2], rand(4, 5, 6), ints(4, 3)),
    "index_twice": (lambda x, i: (x[:, i[:, None], i - 3], x[i, :, i]), rand(4, 5, 6), ints(4, 3)),
    "index_put": (
        lambda x, i, v: aten.index_put.default(x.detach(), [None, i], v.detach()),
        rand(4, 5, 6), torch.tensor([0, 3, -1]), rand(4, 3, 6),
    ),
    "index_unchecked": (
        lambda x, i, v: (
            aten._unsafe_index.Tensor(x.detach(), [i, i]),
            aten._unsafe_index_put.default(x.detach(), [i], v.detach(), True),
        ),
        rand(4, 5), ints(4, 3), rand(3, 5),
    ),
    "index_copy": (lambda x, i, s: x.index_copy(1, i, s), rand(4, 5), torch.tensor([0, 3, 1]), rand(4, 3)),
    "index_add": (lambda x, i, s: x.index_add(1, i, s, alpha=0.5), rand(4, 5), ints(5, 7), rand(4, 7)),
    "index_fill_number": (lambda x, i: x.index_fill(1, i, 2.0), rand(4, 5), ints(5, 2)),
    "scatter_number": (lambda x, i: x.scatter(1, i, 1.5), rand(4, 5), ints(5, 4, 2)),
    "slices": (lambda x: (x[1:3, ::2], x[-1], x[:, 3]), rand(4, 5)),
    "slice_put": (
        lambda x, s: aten.slice_scatter.default(x.detach(), s.detach(), 1, 1, 5, 2), rand(3, 6), rand(3, 2)
    ),
    "narrow_copy": (lambda x: aten.narrow_copy.default(x.detach(), 1, 1, 2), rand(3, 5)),
    "unbind": (lambda x: torch.stack(x.unbind(1)[::-1], 1), rand(3, 4)),
    "roll": (lambda x: (x.roll((1, -2), (0, 1)), x.roll(3)), rand(4, 5)),
    "triangles": (lambda x: (x.tril(1), x.triu(-1)), rand(2, 4, 5)),
    "pixels": (lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2).exp(), 2), rand(1, 8, 2, 3)),
    "addmm": (lambda x, a, b: torch.addmm(x, a, b, beta=0.3, alpha=2), rand(5), rand(3, 4), rand(4, 5)),
    "addmm_plain": (torch.addmm, rand(5), rand(3, 4), rand(4, 5)),
    "baddbmm": (lambda x, a: torch.baddbmm(x, a, a, beta=0.3), rand(2, 3, 3), rand(2, 3, 3)),
    "mv": (lambda a, x: torch.mv(a, x), rand(3, 4), rand(4)),
    "addmv": (lambda y, a, x: torch.addmv(y, a, x, beta=0.3, alpha=2), rand(3), rand(3, 4), rand(4)),
    "dot": (torch.dot, rand(6), rand(6) + 1),
    "sort": (lambda x: x.sort(1), rand(3, 6)),
    "sort_descending": (lambda x: x.sort(0, descending=True), rand(5, 3)),
    "kthvalue": (lambda x: x.kthvalue(2, 1), rand(3, 6)),
    "kthvalue_keeping": (lambda x: x.kthvalue(3, 0, keepdim=True), rand(4, 3)),
    "median": (lambda x: x.median(1), rand(3, 6)),
    "median_whole": (torch.median, rand(3, 5)),
    "cumprod": (lambda x: x.cumprod(1), rand(3, 7)),
    "cummax": (lambda x: x.cummax(1), rand(3, 9)),
    "cummax_ties": (lambda x: x.cummax(0), torch.tensor([1.0, 0, 1, 2, 2, 1, 3])),
    "cummin": (lambda x: x.cummin(0), rand(7, 2)),
    "logcumsumexp": (lambda x: x.logcumsumexp(1), 3 * rand(3, 9)),
    "searchsorted": (lambda x: torch.searchsorted(x.detach().sort(1).values, x.detach()), rand(3, 5)),
    "searchsorted_right": (
        lambda x: torch.searchsorted(x.detach().sort(1).values, x.detach(), right=True), rand(3, 5)
    ),
    "bucketize": (lambda x, b: torch.bucketize(x.detach(), b.detach().sort().values), rand(3, 5), rand(6)),
    "rot90": (lambda x: torch.cat([x.rot90(k, (0, 1)) for k in range(4)], 1), rand(3, 3)),
    **{
        f"cdist_{p}": (lambda a, b, p=p: torch.cdist(a, b, p), rand(2, 3, 4), rand(2, 5, 4))
        for p in (0.0, 0.7, 1.0, 1.5, 2.0, 3.0, math.inf)
    },
    "cdist_of_equals": (lambda a: torch.cdist(a, a.detach()), rand(4, 3)),
    "pdist": (F.pdist, rand(5, 3)),
    "pdist_1": (lambda x: F.pdist(x, 1.0), rand(5, 3)),
    "bilinear": (F.bilinear, rand(4, 3), rand(4, 2), rand(5, 3, 2)),
    "addbmm": (lambda x, a: torch.addbmm(x, a, a, beta=0.3, alpha=2), rand(3, 3), rand(2, 3, 3)),
    "weight_norm": (lambda v, g: torch._weight_norm(v, g, 0), rand(4, 3, 2), rand(4, 1, 1)),
    **{
        f"{name}_{reduction}": (lambda *a, f=function, r=reduction: f(*a, reduction=r), *args)
        for reduction in ("none", "mean", "sum")
        for name, (function, *args) in {
            "cross_entropy": (F.cross_entropy, rand(6, 5), with_ignored(5, 6)),
            "cross_entropy_weighted": (
                lambda x, y, w, **k: F.cross_entropy(x, y, w.detach().abs(), **k),
                rand(6, 5), with_ignored(5, 6), rand(5),
            ),
            "cross_entropy_2d": (F.cross_entropy, rand(2, 5, 3, 4), with_ignored(5, 2, 3, 4)),
            "cross_entropy_2d_weighted": (
                lambda x, y, w, **k: F.cross_entropy(x, y, w.detach().abs(), **k),
                rand(2, 5, 3, 4), with_ignored(5, 2, 3, 4), rand(5),
            ),
            "cross_entropy_1d": (F.cross_entropy, rand(5), torch.tensor(3)),
            "cross_entropy_1d_weighted": (
                lambda x, y, w, **k: F.cross_entropy(x, y, w.detach().abs(), **k),
                rand(5), torch.tensor(3), rand(5),
            ),
            "cross_entropy_all_ignored": (F.cross_entropy, rand(3, 4), torch.full((3,), -100)),
            "nll_infinite_where_ignored": (
                lambda x, y, **k: F.nll_loss(x, y, **k),
                torch.tensor([[-math.inf, 0.0], [-1.0, -2.0]]), torch.tensor([-100, 1]),
            ),
            "mse": (F.mse_loss, rand(4, 3), 2 * rand(4, 3)),
            "smooth_l1": (lambda a, b, **k: F.smooth_l1_loss(a, b, beta=0.5, **k), rand(40), 2 * rand(40)),
            "smooth_l1_equal": (lambda a, **k: F.smooth_l1_loss(a, a.detach(), **k), rand(4)),
            "huber": (lambda a, b, **k: F.huber_loss(a, b, delta=0.7, **k), rand(40), 2 * rand(40)),
            "huber_at_its_bound": (
                lambda a, b, **k: F.huber_loss(a, b.detach(), delta=0.5, **k),
                torch.tensor([0.5, -0.5, 0.0, 0.75]), torch.zeros(4),
            ),
            "bce": (
                lambda x, t, **k: F.binary_cross_entropy(x, t.detach(), **k),
                rand(4, 3).sigmoid(), rand(4, 3).flip(0).sigmoid(),
            ),
            "bce_certain": (
                lambda x, t, **k: F.binary_cross_entropy(x, t.detach(), **k),
                torch.tensor([0.0, 1.0, 0.0, 1.0, 0.3]), torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]),
            ),
            "bce_weighted": (
                lambda x, t, w, **k: F.binary_cross_entropy(x, t.detach(), w.detach(), **k),
                rand(4, 3).sigmoid(), rand(4, 3).flip(0).sigmoid(), rand(3),
            ),
        }.items()
    },
    "multi_margin": (lambda x, y: F.multi_margin_loss(x, y, p=2), rand(4, 5), ints(5, 4)),
    "multi_margin_each": (
        lambda x, y, w: F.multi_margin_loss(x, y, weight=w.detach().abs(), reduction="none"),
        rand(4, 5), ints(5, 4), rand(5),
    ),
    "multilabel_margin": (
        F.multilabel_margin_loss, rand(2, 4), torch.tensor([[3, 0, -1, 1], [-1, 2, 2, 2]])
    ),
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
    "round_decimals": (lambda x: torch.round(x.detach(), decimals=2), rand(9)),
    "round_tens": (lambda x: torch.round(100 * x.detach(), decimals=-1), rand(9)),
    "fake_quantize": (lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 3, 0, 20), rand(30)),
    "fake_quantize_by_tensors": (
        lambda x, s, z: torch.fake_quantize_per_tensor_affine(x, s.detach(), z, 0, 20),
        rand(30), torch.tensor(0.1), torch.tensor(3, dtype=torch.int32),
    ),
    "fake_quantize_channels": (
        lambda x, s, z: torch.fake_quantize_per_channel_affine(x, s.detach(), z, 1, 0, 20),
        rand(5, 3), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 3, 9], dtype=torch.int32),
    ),
    "shift": (lambda i: (i << 3, i >> 2, i << 40), ints(90, 7)),
    "shift_by": (lambda i, j: (i << j, i >> j), ints(90, 7), ints(40, 7)),
    "bitwise_shift": (
        lambda i, j: (
            torch.bitwise_left_shift(i, j), torch.bitwise_right_shift(i, j),
            torch.bitwise_left_shift(i, 2), torch.bitwise_right_shift(i, 2),
            torch.bitwise_left_shift(5, j), torch.bitwise_right_shift(500, j),
        ),
        ints(90, 7), ints(9, 7),
    ),
    "index_fill": (
        lambda x, i, v: x.detach().index_fill(0, i, v.detach()), rand(4, 3), ints(4, 2),
        torch.tensor(2.0),
    ),
    "put": (lambda x, i, s: x.put(i, s), rand(3, 4), torch.tensor([0, 5, -1]), rand(3)),
    "put_added": (lambda x, i, s: x.put(i, s, accumulate=True), rand(3, 4), ints(12, 5), rand(5)),
    "sort_stable": (lambda x: torch.sort(x, stable=True), rand(9)),
    "conjugate": (lambda x: torch.view_as_real(torch.view_as_complex(x.detach()).conj() + 0), rand(3, 2)),
    "grid_3d_nearest": (
        lambda x, g: F.grid_sample(x, g, "nearest", "reflection", True), rand(2, 2, 3, 4, 3), grid3
    ),
}  # fmt: skip


def example_of(overload: Any) -> list[Any]:
    """Arguments of a loss, an activation or its gradient, or a sum of products."""
    schema = [a.name for a in overload._schema.arguments if not a.kwarg_only]
    scalar = "reduction" in schema
    given = {
        "reduction": 1, "beta": 0.5, "delta": 0.5, "negative_slope": 0.1, "self_is_result": False,
        "threshold": 20, "grad_output": torch.tensor(1.0) if scalar else rand(4), "self": rand(4).sigmoid(),
        "output": rand(4).sigmoid(), "target": rand(4).cos().abs(), "other": rand(4), "tensor1": rand(4),
        "tensor2": rand(4), "value": torch.tensor(1.0) if overload is aten.fill.Tensor else 1, "dim": [0],
        "keepdim": False,
    }  # fmt: skip
    return [given.get(name) for name in schema]


CALLS: dict[str, tuple[Any, ...]] = {
    "renormalized_embedding": (aten.embedding_renorm.default, rand(6, 3), ints(6, 4), 0.5, 2.0),
    "zero_tensor": (aten._efficientzerotensor.default, [3]),
    "bce_with_logits": (
        aten.binary_cross_entropy_with_logits.default,
        rand(4, 3),
        rand(4, 3).sigmoid(),
        None,
        rand(3).abs(),
        1,
    ),
    "strides": (aten.as_strided.default, rand(4, 4), [2, 2], [4, 1]),
    "remainder_by_number": (aten.remainder.Scalar, rand(4), 0.7),
    "finite": (aten.isfinite.default, rand(4)),
    **{str(overload): (overload, *example_of(overload)) for overload in sorted(OF_PYTORCH, key=str)},
}


def formulas_of(name: str) -> dict[str, str]:
    """What the expansions of a case consist of."""
    graph = graph_of(*CASES[name]) if name in CASES else graph_of_call(*CALLS[name])[0]
    nodes = [n for n in graph.nodes() if is_expanded(n)]
    return {f"{name}: {n.target}": formula(LEGALIZE.expansion(n)) for n in nodes}


def formulas_of_all_cases() -> dict[str, str]:
    return {key: text for name in (*CASES, *CALLS) for key, text in formulas_of(name).items()}


SNAPSHOT = expansion_snapshot.read()


@pytest.mark.parametrize("name", CASES)
def test_an_expansion_gives_what_its_operator_gives(name: str) -> None:
    assert assert_expands(*CASES[name])


@pytest.mark.parametrize("name", [*CASES, *CALLS])
def test_formulas_are_those_that_were_measured(name: str) -> None:
    """`expansion_snapshot` says how they are renewed."""
    assert formulas_of(name) == {key: text for key, text in SNAPSHOT.items() if key.startswith(f"{name}: ")}


def test_every_expansion_has_its_formula_in_the_snapshot() -> None:
    assert {key.split(": ")[1] for key in SNAPSHOT} == {str(overload) for overload in EXPANDED}
    assert {key.split(": ")[0] for key in SNAPSHOT} == {*CASES, *CALLS}


@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize("weight", [None, rand(3)])
@pytest.mark.parametrize("pos_weight", [None, rand(3).abs()])
def test_binary_cross_entropy_of_logits(
    weight: Tensor | None, pos_weight: Tensor | None, reduction: int
) -> None:
    logits = torch.tensor([[-200.0, 200.0, -90.0], [30.0, 0.0, -0.3]])
    targets = torch.tensor([[0.0, 1.0, 1.0], [0.5, 0.0, 0.2]])
    overload = aten.binary_cross_entropy_with_logits.default
    graph, tensors = graph_of_call(overload, logits, targets, weight, pos_weight, reduction)
    assert assert_graph_expands(graph, *tensors) == {overload}


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "linear"])
def test_a_resize_too_large_for_a_matrix_takes_what_it_needs(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "FOLD_LIMIT_BYTES", 16)
    assert assert_expands(lambda x: F.interpolate(x, 9, mode=mode), rand(1, 2, 5))
    assert assert_expands(lambda x: F.interpolate(x, scale_factor=0.6, mode=mode), rand(1, 2, 5))


def test_a_cubic_resize_too_large_for_a_matrix_takes_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "FOLD_LIMIT_BYTES", 16)
    assert assert_expands(lambda x: F.interpolate(x, (7, 4), mode="bicubic"), rand(1, 2, 5, 3))


def test_what_a_target_takes_is_left_alone() -> None:
    graph = graph_of(lambda x: F.glu(x.exp()), rand(2, 4))
    assert Legalize(lambda node: "")(graph) is graph


def test_pytorchs_own_decompositions_serve_where_there_is_no_expansion() -> None:
    graph = graph_of(F.glu, rand(2, 4))
    lacking = (aten.glu.default, aten.glu_backward.default)
    legal = Legalize(lambda node: "not there" if node.target in lacking else "")(graph)
    assert not {n.target for n in legal.nodes()} & set(lacking)
    for got, wanted in zip(run(legal, rand(2, 4)), run(graph, rand(2, 4)), strict=True):
        torch.testing.assert_close(got, wanted)


def test_where_an_expansion_needs_what_the_target_lacks_the_reason_names_it() -> None:
    graph = graph_of(torch.asin, INSIDE)
    lacks = Legalize(lambda n: f"no {n.target}" if n.target in (aten.asin.default, aten.atan.default) else "")
    node = next(n for n in graph.nodes() if n.target is aten.asin.default)
    assert lacks.why_not(node) == "it stands for aten.atan.default, among others: no aten.atan.default"
    assert any(n.target is aten.asin.default for n in lacks(graph).nodes())


def test_an_operator_that_nobody_can_say_in_others_keeps_the_targets_reason() -> None:
    graph = graph_of(lambda x: torch.special.i0(x.detach()), rand(3))
    *_, node = graph.nodes()
    assert Legalize(lambda n: "not here").why_not(node) == "not here"


def test_what_stands_for_an_operator_belongs_to_its_layer_and_line() -> None:
    graph = graph_of(lambda x: torch.asinh(x.detach()), rand(3))
    for node in graph.nodes():
        node.meta.update(layer="head", source="net.py:7", phase="backward")
    places = {(n.meta["layer"], n.meta["source"], n.meta["phase"]) for n in Legalize(refusal)(graph).nodes()}
    assert places == {("head", "net.py:7", "backward")}


def test_expansions_of_the_same_call_share_their_constants() -> None:
    def twice(x: Tensor) -> Tensor:
        return F.interpolate(x, 7, mode="linear") + F.interpolate(x * 2, 7, mode="linear")

    legal = Legalize(refusal)(graph_of(lambda x: twice(x.detach()), rand(1, 2, 4)))
    assert [s.shape for s in legal.inputs if s.role is Role.CONST].count((7, 4)) <= 1
    assert interpret(legal, {"a0": rand(1, 2, 4)})
