"""The table of `test_field_operators.py`: what users put between two layers, by name."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from between import Case, Function, function, module
from operator_modules import Bags, Bilinear, Memory, Sampled, Sampled3d, Transformed, picked
from torch import Tensor, nn

POINTWISE: dict[str, Function] = {
    "acos": lambda x: torch.acos(0.9 * torch.tanh(x)),
    "asin": lambda x: torch.asin(0.9 * torch.tanh(x)),
    "atan": torch.atan,
    "atan2": lambda x: torch.atan2(x, x.flip(1) + 0.3),
    "tan": lambda x: torch.tan(torch.tanh(x)),
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "asinh": torch.asinh,
    "acosh": lambda x: torch.acosh(1.5 + x.abs()),
    "atanh": lambda x: torch.atanh(0.8 * torch.tanh(x)),
    "nan_to_num": lambda x: torch.nan_to_num(torch.log(x), nan=0.5, posinf=2.0, neginf=-3.0),
    "nan_to_num_defaults": lambda x: torch.nan_to_num(x).mul(2),
    "logaddexp": lambda x: torch.logaddexp(x, 2 * x.flip(1)),
    "logaddexp2": lambda x: torch.logaddexp2(x, 2 * x.flip(1)),
    "hypot": lambda x: torch.hypot(x, x.flip(1) + 0.1),
    "erf": torch.erf,
    "erfc": torch.erfc,
    "erfinv": lambda x: torch.erfinv(0.95 * torch.tanh(x)),
    "lgamma": lambda x: torch.lgamma(x.abs() + 0.4),
    "digamma": lambda x: torch.digamma(x.abs() + 0.4),
    "sinc": lambda x: torch.sinc(x),
    "logit": lambda x: torch.logit(torch.sigmoid(x), eps=1e-4),
    "exp2": torch.exp2,
    "frac": torch.frac,
    "rsqrt": lambda x: torch.rsqrt(x.abs() + 0.2),
    "log1p": lambda x: torch.log1p(x.abs()),
    "xlogy": lambda x: torch.xlogy(x, x.flip(1).abs() + 0.1),
    "fmod": lambda x: torch.fmod(5 * x, 1.3),
    "remainder": lambda x: torch.remainder(5 * x, 1.3),
    "fmod_tensor": lambda x: torch.fmod(5 * x, x.detach().abs() + 0.4),
    "remainder_tensor": lambda x: torch.remainder(5 * x, x.detach().abs() + 0.4),
    "fmax": lambda x: torch.fmax(x, x.flip(1)),
    "fmin": lambda x: torch.fmin(x, x.flip(1)),
    "copysign": lambda x: torch.copysign(x, x.flip(1)),
    "heaviside": lambda x: x * torch.heaviside(x.detach(), torch.tensor(0.5, dtype=x.dtype)),
    "ldexp": lambda x: torch.ldexp(x, torch.tensor(3)),
    "addcmul": lambda x: torch.addcmul(x, x.flip(1), x, value=0.3),
    "addcdiv": lambda x: torch.addcdiv(x, x.flip(1), x.abs() + 0.5, value=0.3),
    "lerp": lambda x: torch.lerp(x, x.flip(1), torch.sigmoid(x)),
    "true_divide_floor": lambda x: x * torch.floor_divide(x.detach(), 0.3),
    "glu": lambda x: F.glu(x, 1),
    "softshrink": F.softshrink,
    "hardshrink": F.hardshrink,
    "tanhshrink": F.tanhshrink,
    "threshold": lambda x: F.threshold(x, 0.1, -0.5),
    "celu": lambda x: F.celu(x, 1.3),
    "selu": F.selu,
    "logsigmoid": F.logsigmoid,
    "softsign": F.softsign,
    "softmin": lambda x: F.softmin(x, 1),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "mish": F.mish,
    "softplus": lambda x: F.softplus(x, 1.5, 1.0),
    "relu6": F.relu6,
    "clip_between_tensors": lambda x: torch.clamp(x, x.detach().amin() / 2, x.detach().amax() / 2),
    "gumbel_free_straight_through": lambda x: x + (x.round() - x).detach(),
}  # fmt: skip

POINTWISE |= {
    "round_decimals": lambda x: x + (torch.round(x, decimals=2) - x).detach(),
    "round_tens": lambda x: x + (torch.round(30 * x, decimals=-1) - x).detach(),
    "fake_quantize": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.05, 3, -8, 20),
    "fake_quantize_by_tensors": lambda x: torch.fake_quantize_per_tensor_affine(
        x, torch.tensor(0.05), torch.tensor(3, dtype=torch.int32), -8, 20
    ),
    "fake_quantize_channels": lambda x: torch.fake_quantize_per_channel_affine(
        x, torch.linspace(0.02, 0.1, 8), torch.arange(8, dtype=torch.int32), 1, -8, 20
    ),
    "left_shift": lambda x: x * (((3 * x.detach()).int().clamp(-5, 5) << 2) % 7),
    "left_shift_of_a_number": lambda x: x * (1 << torch.arange(8)),
    "right_shift": lambda x: x * ((x.detach() > 0).long() * 77 - 40 >> 3),
    "right_shift_by_tensor": lambda x: x * ((x.detach() > 0).int() * 77 - 40 >> torch.arange(8)),
}  # fmt: skip

OPERATORS: dict[str, Case] = {n: function(8)(f) for n, f in POINTWISE.items()} | {
    # sums, norms, statistics
    "norm": function(4, 3)(lambda x: torch.norm(x, dim=1)),
    "norm_keepdim": function(4, 3)(lambda x: x / torch.norm(x, dim=2, keepdim=True)),
    "norm_p1": function(4, 3)(lambda x: torch.norm(x, p=1, dim=1)),
    "norm_inf": function(4, 3)(lambda x: torch.norm(x, p=math.inf, dim=1)),
    "norm_whole": function(4, 3)(lambda x: x / torch.norm(x)),
    "norm_p3": function(4, 3)(lambda x: torch.norm(x, p=3, dim=(1, 2)).unsqueeze(1)),
    "vector_norm": function(4, 3)(lambda x: torch.linalg.vector_norm(x, ord=2.5, dim=-1)),
    "vector_norm_inf": function(4, 3)(lambda x: torch.linalg.vector_norm(x, ord=math.inf, dim=-1)),
    "matrix_norm_fro": function(4, 3)(lambda x: torch.linalg.matrix_norm(x).unsqueeze(1)),
    "normalize_p1": function(4, 3)(lambda x: F.normalize(x, p=1.0, dim=1)),
    "renormalised_rows": function(4, 3)(lambda x: x / x.norm(dim=-1, keepdim=True).clamp_min(1e-6)),
    "var_correction": function(4, 3)(lambda x: x.var(dim=1, correction=0)),
    "std_correction": function(4, 3)(lambda x: x.std(dim=(1, 2), correction=2).unsqueeze(1)),
    "std_mean": function(4, 3)(lambda x: torch.cat(torch.std_mean(x, dim=1), 1)),
    "var_mean": function(4, 3)(lambda x: torch.cat(torch.var_mean(x, dim=2), 1)),
    "logsumexp_two_dims": function(4, 3)(lambda x: x * torch.logsumexp(x, (1, 2), keepdim=True)),
    "amax_two_dims": function(4, 3)(lambda x: x - x.amax((1, 2), keepdim=True)),
    "aminmax": function(4, 3)(lambda x: torch.cat(torch.aminmax(x, dim=1), 1)),
    "nansum": function(4, 3)(lambda x: torch.nansum(x, 1)),
    "nanmean": function(4, 3)(lambda x: torch.nanmean(x, 1)),
    "prod": function(4, 3)(lambda x: x.prod(1)),
    "count_nonzero": function(4, 3)(lambda x: x * torch.count_nonzero(x > 0, 1).unsqueeze(1)),
    "trace": function(3, 3)(lambda x: x.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)),
    # cumulative
    "cumsum": function(4, 3)(lambda x: x.cumsum(1)),
    "cumprod": function(4, 3)(lambda x: (1 + 0.3 * x).cumprod(1)),
    "cumprod_with_zeros": function(4, 3)(lambda x: F.relu(x).cumprod(2)),
    "cummax": function(4, 3)(lambda x: x.cummax(1).values),
    "cummin": function(4, 3)(lambda x: x.cummin(2).values),
    "logcumsumexp": function(4, 3)(lambda x: x.logcumsumexp(1)),
    "diff": function(5, 3)(lambda x: torch.diff(x, dim=1)),
    "trapezoid": function(5, 3)(lambda x: torch.trapezoid(x, dim=1)),
    # order
    "sort": function(5, 3)(lambda x: x.sort(1).values),
    "sort_descending": function(5, 3)(lambda x: x.sort(2, descending=True).values),
    "sort_stable": function(5, 3)(lambda x: torch.sort(x, dim=1, stable=True).values),
    "argsort_then_gather": function(5, 3)(lambda x: x.gather(1, x.argsort(1, descending=True))),
    "sort_by_another": function(5, 3)(lambda x: x.take_along_dim(x[:, :, :1].sort(1).indices, 1)),
    "topk": function(5, 3)(lambda x: x.topk(2, 1).values),
    "topk_smallest": function(5, 3)(lambda x: x.topk(3, 1, largest=False).values),
    "topk_indices": function(5, 3)(lambda x: x.gather(1, (-x).topk(2, 1).indices)),
    "kthvalue": function(5, 3)(lambda x: x.kthvalue(2, 1).values),
    "median": function(5, 3)(lambda x: x.median(1).values),
    "median_even": function(4, 3)(lambda x: x.median(1).values),
    "quantile": function(5, 3)(lambda x: x.quantile(0.3, 1)),
    "max_dim": function(5, 3)(lambda x: x.max(1).values),
    "maxout": function(6)(lambda x: x.view(-1, 3, 2).max(-1).values),
    "bucketize": function(6)(lambda x: x * torch.bucketize(x.detach(), torch.linspace(-1, 1, 5))),
    "bucketize_right": function(6)(
        lambda x: x * torch.bucketize(x.detach(), torch.linspace(-1, 1, 5), right=True)
    ),
    "searchsorted": function(6)(
        lambda x: x * torch.searchsorted(x.detach().sort(1).values, x.detach())
    ),
    # indexing
    "gather": function(4, 3)(lambda x: x.gather(2, picked(x))),
    "take_along_dim": function(4, 3)(lambda x: x.take_along_dim(picked(x), 2)),
    "index_select": function(4, 3)(lambda x: x.index_select(1, torch.tensor([2, 0, 2]))),
    "advanced_index": function(4, 3)(lambda x: x[:, [0, 2], [1, 1]]),
    "index_of_each_sample": function(4, 3)(
        lambda x: x[torch.arange(x.shape[0]), picked(x)[:, 0, 0]]
    ),
    "scatter": function(4, 3)(lambda x: x.scatter(1, torch.zeros_like(picked(x)), x.flip(1))),
    "scatter_value": function(4, 3)(lambda x: x.scatter(2, picked(x)[:, :, :1], 0.5)),
    "scatter_add": function(4, 3)(lambda x: x.scatter_add(2, picked(x), x)),
    "scatter_reduce_sum": function(4, 3)(
        lambda x: x.scatter_reduce(2, picked(x), x.flip(1), "sum", include_self=True)
    ),
    "scatter_reduce_mean": function(4, 3)(
        lambda x: x.scatter_reduce(2, picked(x), x.flip(1), "mean", include_self=True)
    ),
    "scatter_reduce_amax": function(4, 3)(
        lambda x: x.scatter_reduce(2, picked(x), x.flip(1), "amax", include_self=True)
    ),
    "index_add": module(lambda: Memory(lambda t, i, x: t.index_add(0, i, x)), 4),
    "index_copy": module(lambda: Memory(lambda t, i, x: t.index_copy(0, torch.arange(len(x)), x)), 4),
    "index_put_accumulate": module(
        lambda: Memory(lambda t, i, x: torch.index_put(t, (i,), x, accumulate=True)), 4
    ),
    "put": module(lambda: Memory(lambda t, i, x: torch.put(t, torch.arange(len(x)) - 9, x[:, 0])), 4),
    "put_accumulate": module(lambda: Memory(lambda t, i, x: torch.put(t, i, x[:, 0], True)), 4),
    "index_put": module(
        lambda: Memory(lambda t, i, x: torch.index_put(t, (torch.arange(len(x)),), x)), 4
    ),
    "index_fill": function(4, 3)(lambda x: x.index_fill(1, torch.tensor([1, 3]), 0.3)),
    "masked_fill": function(4, 3)(lambda x: x.masked_fill(x > 0.2, 0.0)),
    "masked_scatter_by_where": function(4, 3)(lambda x: torch.where(x > 0, x, x.flip(2))),
    "one_hot": function(4)(lambda x: F.one_hot(picked(x), 4).float() * x.unsqueeze(2)),
    "embedding_bag_sum": module(lambda: Bags("sum"), 4),
    "embedding_bag_mean": module(lambda: Bags("mean"), 4),
    # layout
    "unfold_windows": function(9)(lambda x: x.unfold(1, 4, 2)),
    "unfold_overlapping": function(3, 7)(lambda x: x.unfold(2, 3, 1)),
    "im2col": function(2, 5, 6)(lambda x: F.unfold(x, 3, padding=1, stride=2)),
    "im2col_dilated": function(2, 6, 6)(lambda x: F.unfold(x, (2, 3), dilation=2)),
    "col2im": function(8, 6)(lambda x: F.fold(x, (3, 4), 2)),
    "col2im_strided": function(8, 9)(lambda x: F.fold(x, (5, 5), 2, stride=2, padding=1)[:, :1]),
    "pixel_shuffle": function(8, 2, 3)(lambda x: F.pixel_shuffle(x, 2)),
    "pixel_unshuffle": function(2, 4, 6)(lambda x: F.pixel_unshuffle(x, 2)),
    "channel_shuffle": function(6, 2, 2)(lambda x: F.channel_shuffle(x, 3)),
    "roll": function(4, 3)(lambda x: x.roll((1, -1), (1, 2))),
    "flip": function(4, 3)(lambda x: x.flip(1, 2) * x),
    "rot90": function(3, 4)(lambda x: x.rot90(1, (1, 2))),
    "repeat_interleave": function(3, 4)(lambda x: x.repeat_interleave(2, 1)),
    "repeat_interleave_each": function(3, 4)(
        lambda x: x.repeat_interleave(torch.tensor([1, 0, 2]), 1, output_size=3)
    ),
    "tile": function(3, 4)(lambda x: x.tile((1, 2, 2))),
    "tril": function(4, 4)(lambda x: x.tril(-1)),
    "triu": function(4, 4)(lambda x: x.triu(1) @ x),
    "diag_embed": function(4)(lambda x: torch.diag_embed(x, 1)),
    "unbind": function(4, 3)(lambda x: torch.stack([a * i for i, a in enumerate(x.unbind(1))], 2)),
    "chunk": function(6)(lambda x: torch.cat([c.tanh() for c in x.chunk(4, 1)], 1)),
    "hstack": function(6)(lambda x: torch.hstack((x, x.exp()))),
    "meshgrid": function(3)(lambda x: x[:, :, None] * torch.meshgrid(x[0], x[1], indexing="ij")[0]),
    # products
    "einsum_attention": function(3, 4)(lambda x: torch.einsum("nqd,nkd->nqk", x, x.tanh())),
    "einsum_outer": function(3)(lambda x: torch.einsum("ni,nj->nij", x, x)),
    "einsum_trace": function(3, 3)(lambda x: torch.einsum("nii->ni", x)),
    "einsum_three": function(3)(lambda x: torch.einsum("ni,nj,nk->nijk", x, x.sin(), x.cos())),
    "einsum_ellipsis": function(2, 3, 4)(lambda x: torch.einsum("...ij,...kj->...ik", x, x)),
    "tensordot": function(3, 4)(lambda x: torch.tensordot(x, x[:2].detach(), dims=([1, 2], [1, 2]))),
    "kron": function(3)(lambda x: torch.kron(x, torch.eye(2)[:1])),
    "cross": function(4, 3)(lambda x: torch.linalg.cross(x, x.flip(1))),
    "outer": function(3)(lambda x: torch.outer(x[0], x[1]).sum() * x),
    "baddbmm": function(3, 3)(lambda x: torch.baddbmm(x, x, x.tanh(), beta=0.5, alpha=0.3)),
    "addbmm": function(3, 3)(lambda x: x + torch.addbmm(x[0], x, x, beta=0.5, alpha=0.3)),
    "addmv": function(4)(lambda x: torch.addmv(x[:, 0], x, x[0]).unsqueeze(1) * x),
    "addr": function(4)(lambda x: torch.addr(x, x[:, 0], x[0], beta=0.3, alpha=2.0)),
    "matrix_power": function(3, 3)(lambda x: torch.matrix_power(0.5 * x, 3)),
    "chain_matmul": function(3, 3)(lambda x: torch.linalg.multi_dot([x[0], x[1], x[0]]).sum() * x),
    "bilinear": module(Bilinear, 7),
    "cdist": function(4, 3)(lambda x: torch.cdist(x, x.flip(2) + 0.1)),
    "cdist_p1": function(4, 3)(lambda x: torch.cdist(x, x.tanh() + 0.1, p=1.0)),
    "cdist_inf": function(4, 3)(lambda x: torch.cdist(x, x.tanh() + 0.1, p=math.inf)),
    "cdist_p3": function(4, 3)(lambda x: torch.cdist(x, x.tanh() + 0.1, p=3.0)),
    "cdist_large": function(30, 3)(lambda x: torch.cdist(x, x.flip(2) + 0.1)),
    "pdist": function(3)(lambda x: F.pdist(x).sum() * x),
    "cosine_similarity": function(4, 3)(lambda x: F.cosine_similarity(x, x.flip(1) + 0.2, dim=2)),
    "pairwise_distance": function(4, 3)(lambda x: F.pairwise_distance(x, x.flip(1) + 0.2)),
    # pools
    "adaptive_avg_pool1d": function(2, 7)(lambda x: F.adaptive_avg_pool1d(x, 3)),
    "adaptive_avg_pool1d_of_transposed": function(7, 2)(
        lambda x: F.adaptive_avg_pool1d(x.transpose(1, 2), 1)
    ),
    "adaptive_avg_pool2d": function(2, 5, 7)(lambda x: F.adaptive_avg_pool2d(x, (2, 3))),
    "adaptive_avg_pool2d_grows": function(2, 3, 2)(lambda x: F.adaptive_avg_pool2d(x, (5, 4))),
    "adaptive_avg_pool3d": function(2, 4, 5, 3)(lambda x: F.adaptive_avg_pool3d(x, (2, 3, 2))),
    "adaptive_max_pool1d": function(2, 7)(lambda x: F.adaptive_max_pool1d(x, 3)),
    "adaptive_max_pool2d": function(2, 5, 7)(lambda x: F.adaptive_max_pool2d(x, (2, 3))),
    "adaptive_max_pool3d": function(2, 4, 5, 3)(lambda x: F.adaptive_max_pool3d(x, (2, 3, 2))),
    "avg_pool1d": function(2, 7)(lambda x: F.avg_pool1d(x, 3, 2, padding=1)),
    "max_pool1d": function(2, 7)(lambda x: F.max_pool1d(x, 3, 2, padding=1)),
    "max_pool3d": function(2, 4, 5, 4)(lambda x: F.max_pool3d(x, 2, padding=1)),
    "max_pool3d_overlapping": function(2, 5, 5, 5)(lambda x: F.max_pool3d(x, 3, 2, dilation=1)),
    "max_pool2d_dilated": function(2, 6, 6)(lambda x: F.max_pool2d(x, 2, 1, dilation=2)),
    "max_unpool2d": function(2, 4, 4)(
        lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)
    ),
    "avg_pool3d": function(2, 4, 5, 4)(lambda x: F.avg_pool3d(x, 2)),
    "avg_pool3d_padded": function(2, 5, 5, 5)(
        lambda x: F.avg_pool3d(x, 3, 2, padding=1, count_include_pad=False)
    ),
    "lp_pool1d": function(2, 8)(lambda x: F.lp_pool1d(x.abs() + 0.1, 2, 3)),
    "lp_pool2d": function(2, 4, 4)(lambda x: F.lp_pool2d(x.abs() + 0.1, 3, 2)),
    # padding
    "reflection_pad1d": function(2, 5)(lambda x: F.pad(x, (2, 1), "reflect")),
    "reflection_pad2d": function(2, 4, 5)(lambda x: F.pad(x, (2, 1, 0, 3), "reflect")),
    "reflection_pad3d": function(2, 3, 3, 3)(lambda x: F.pad(x, (1, 2, 0, 1, 2, 0), "reflect")),
    "replication_pad1d": function(2, 5)(lambda x: F.pad(x, (2, 1), "replicate")),
    "replication_pad2d": function(2, 4, 5)(lambda x: F.pad(x, (2, 1, 0, 3), "replicate")),
    "replication_pad3d": function(2, 3, 3, 3)(lambda x: F.pad(x, (1, 2, 0, 4, 2, 0), "replicate")),
    "circular_pad1d": function(2, 5)(lambda x: F.pad(x, (2, 1), "circular")),
    "circular_pad2d": function(2, 4, 5)(lambda x: F.pad(x, (2, 1, 0, 3), "circular")),
    "conv1d_circular": module(lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), 2, 6),
    "negative_pad": function(2, 4, 5)(lambda x: F.pad(x, (-1, 2), value=0.3)),
    "conv2d_reflect": module(lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), 2, 4, 4),
    "conv2d_replicate": module(lambda: nn.Conv2d(2, 3, 3, padding=2, padding_mode="replicate"), 2, 4, 4),
    # resizing
    **{
        f"interpolate_{mode}{len(shape)}d_{how}": function(2, *shape)(
            lambda x, mode=mode, how=how: _resized(x, mode, how)
        )
        for modes, shape in (
            (("nearest", "nearest-exact", "linear"), (5,)),
            (("nearest", "nearest-exact", "bilinear", "bicubic"), (3, 4)),
            (("nearest", "nearest-exact", "trilinear"), (2, 3, 2)),
        )
        for mode in modes
        for how in ("scale", "size", "aligned", "shrunk", "recomputed")
        if how != "aligned" or "linear" in mode or "cubic" in mode
    },
    "interpolate_area": function(2, 5, 7)(lambda x: F.interpolate(x, (3, 3), mode="area")),
    "interpolate_antialias": function(2, 6, 8)(
        lambda x: F.interpolate(x, (3, 5), mode="bilinear", antialias=True)
    ),
    "interpolate_antialias_bicubic": function(2, 6, 8)(
        lambda x: F.interpolate(x, (3, 5), mode="bicubic", antialias=True)
    ),
    "upsampling_bilinear_module": module(lambda: nn.UpsamplingBilinear2d(scale_factor=2), 2, 3, 4),
    # sampling
    **{
        f"grid_sample_{mode}_{padding}{'_aligned' if align else ''}": module(
            lambda mode=mode, padding=padding, align=align: Sampled(mode, padding, align), 2, 4, 5
        )
        for mode in ("bilinear", "nearest", "bicubic")
        for padding in ("zeros", "border", "reflection")
        for align in (False, True)
    },
    "affine_grid": module(Transformed, 2, 4, 5),
    "grid_sample_3d": module(Sampled3d, 2, 3, 3, 3),
    # layers with parameters
    "weight_norm": module(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)), 6),
    "weight_norm_conv": module(
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 3), dim=0), 2, 6
    ),
    "weight_norm_last_dim": module(
        lambda: nn.utils.parametrizations.weight_norm(nn.ConvTranspose1d(2, 3, 3), dim=1), 2, 6
    ),
    "conv3d": module(lambda: nn.Conv3d(2, 3, 2), 2, 3, 4, 3),
    "conv3d_strided_grouped": module(lambda: nn.Conv3d(2, 4, 3, 2, 1, groups=2), 2, 4, 4, 4),
    "conv3d_dilated": module(lambda: nn.Conv3d(2, 2, 2, dilation=2, padding=1), 2, 3, 4, 3),
    "conv_transpose3d": module(lambda: nn.ConvTranspose3d(2, 3, 2, 2), 2, 2, 2, 2),
    "conv_transpose1d": module(lambda: nn.ConvTranspose1d(2, 3, 3, 2, output_padding=1), 2, 4),
    "batch_norm_3d": module(lambda: nn.BatchNorm3d(2).eval(), 2, 3, 3, 3),
    "group_norm": module(lambda: nn.GroupNorm(2, 4), 4, 3),
    "group_norm_3d": module(lambda: nn.GroupNorm(2, 4), 4, 2, 2, 2),
    "instance_norm_3d": module(lambda: nn.InstanceNorm3d(2, affine=True), 2, 2, 3, 2),
    "local_response_norm": module(lambda: nn.LocalResponseNorm(3), 4, 3, 3),
    "rms_norm": module(lambda: nn.RMSNorm(6), 3, 6),
    "prelu": module(lambda: nn.PReLU(4), 4, 3),
    "replication_layer": module(lambda: nn.ReplicationPad1d(2), 4, 3),
}  # fmt: skip


def _resized(x: Tensor, mode: str, how: str) -> Tensor:
    corners = {"align_corners": how == "aligned"} if "linear" in mode or "cubic" in mode else {}
    size = [s + 2 for s in x.shape[2:]]
    match how:
        case "scale":
            return F.interpolate(x, scale_factor=1.7, mode=mode, **corners)
        case "recomputed":
            return F.interpolate(x, scale_factor=1.6, mode=mode, recompute_scale_factor=True, **corners)
        case "shrunk":
            return F.interpolate(x, scale_factor=0.6, mode=mode, **corners)
    return F.interpolate(x, size=size, mode=mode, **corners)
