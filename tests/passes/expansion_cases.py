"""Functions and their arguments, by name: between them they call every operator that has an expansion."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from expansion_cases_of_space import CASES_OF_SPACE
from expansion_values import ints, rand
from expansions import OF_PYTORCH
from torch import Tensor

aten = torch.ops.aten


def with_ignored(high: int, *shape: int) -> Tensor:
    """Labels, the first of which stands for none."""
    labels = ints(high, *shape)
    labels.view(-1)[0] = -100
    return labels


EDGES = torch.tensor(
    [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1e-20, -1e-20, 3.0, 1e15, math.inf, -math.inf, math.nan]
)
INSIDE = torch.linspace(-0.999, 0.999, 41)
BAGS = torch.tensor([0, 2])

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
    **CASES_OF_SPACE,
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
