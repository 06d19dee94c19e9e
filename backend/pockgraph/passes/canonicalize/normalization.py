"""Batch, layer and group norm, and their backward passes, in parts that a plan can keep or drop."""

from __future__ import annotations

import math
import operator
from typing import Any

from torch import fx

from ...ir.graph import Builder, aten
from .rule_table import rule


def take(b: Builder, node: fx.Node, index: int) -> fx.Node:
    got = b.graph.call_function(operator.getitem, (node, index))
    got.meta = {**node.meta, "val": node.meta["val"][index]}
    return got


def _per_channel(b: Builder, v: Any, ndim: int) -> fx.Node:
    return b.call(aten.reshape.default, v, [1, -1] + [1] * (ndim - 2))


def _bn_scale(b: Builder, w: Any, var: Any, eps: float) -> tuple[fx.Node, fx.Node]:
    """1/sqrt(var + eps) and the scale `weight / sqrt(var + eps)`, both [C]."""
    inv = b.call(aten.rsqrt.default, b.call(aten.add.Scalar, var, eps))
    return inv, (inv if w is None else b.call(aten.mul.Tensor, w, inv))


@rule(aten.native_batch_norm.default)
def _native_batch_norm(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    x, w, bias, mean, var, training, _, eps = args
    if not training:
        return _scale_and_shift(b, x, w, bias, mean, var, eps)
    return _by_own_statistics(b, x, w, bias, eps, mean)


@rule(aten._native_batch_norm_legit.no_stats)
def _batch_norm_without_statistics(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    x, w, bias, _, _, eps = args
    return _by_own_statistics(b, x, w, bias, eps)


def _by_own_statistics(
    b: Builder, x: Any, w: Any, bias: Any, eps: float, running_mean: Any = None
) -> dict[int, fx.Node]:
    sizes = _instances(x, running_mean)
    if sizes is None:
        return _by_batch(b, x, w, bias, eps)
    norm = b.call(aten.native_group_norm.default, x, w, bias, *sizes, eps)
    flat = [b.call(aten.reshape.default, take(b, norm, i), [sizes[1]]) for i in (1, 2)]
    return {0: take(b, norm, 0), 1: flat[0], 2: flat[1]}


@rule(aten._native_batch_norm_legit_functional.default)
def _batch_norm_in_training(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    x, w, bias, running_mean, running_var, training, momentum, eps = args
    if not training:
        return None
    count = _count(x)
    mean, var = _batch_statistics(b, x)
    unbiased = b.call(aten.mul.Scalar, var, count / (count - 1))
    results = _by_batch(b, x, w, bias, eps, mean, var)
    for i, old, new in ((3, running_mean, mean), (4, running_var, unbiased)):
        kept = b.call(aten.mul.Scalar, old, 1 - momentum)
        results[i] = b.call(aten.add.Tensor, kept, b.call(aten.mul.Scalar, new, momentum))
    return results


def _count(x: Any) -> int:
    """Elements of x [N, C, ...] per channel."""
    return x.meta["val"].numel() // x.meta["val"].shape[1]


def _batch_statistics(b: Builder, x: Any) -> tuple[fx.Node, fx.Node]:
    """Mean and (biased) variance of each channel, [C]."""
    dims = [d for d in range(x.meta["val"].ndim) if d != 1]
    return b.call(aten.mean.dim, x, dims), b.call(aten.var.correction, x, dims, correction=0)


def _by_batch(
    b: Builder, x: Any, w: Any, bias: Any, eps: float, mean: Any = None, var: Any = None
) -> dict[int, fx.Node]:
    """Normalised by the batch, its mean [C], and its 1/sqrt(var + eps) [C]."""
    if mean is None or var is None:
        mean, var = _batch_statistics(b, x)
    inv, scale = _bn_scale(b, w, var, eps)
    return {0: _scaled_and_shifted(b, x, scale, bias, mean), 1: mean, 2: inv}


@rule(aten._native_batch_norm_legit_no_training.default)
def _batch_norm(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    x, w, bias, mean, var, _, eps = args
    return _scale_and_shift(b, x, w, bias, mean, var, eps)


def _instances(x: Any, mean: Any) -> list[int] | None:
    """N, C, HW and groups of the group norm that a batch norm over its own statistics is, if it is one."""
    n, c, *space = x.meta["val"].shape
    return [n, c, math.prod(space), c] if mean is None and n == 1 else None


def _scale_and_shift(
    b: Builder, x: Any, w: Any, bias: Any, mean: Any, var: Any, eps: Any
) -> dict[int, fx.Node]:
    _, scale = _bn_scale(b, w, var, eps)
    return {0: _scaled_and_shifted(b, x, scale, bias, mean)}


def _scaled_and_shifted(b: Builder, x: Any, scale: Any, bias: Any, mean: Any) -> fx.Node:
    ndim = x.meta["val"].ndim
    shift = b.call(aten.neg.default, b.call(aten.mul.Tensor, mean, scale))
    if bias is not None:
        shift = b.call(aten.add.Tensor, bias, shift)
    scaled = b.call(aten.mul.Tensor, x, _per_channel(b, scale, ndim))
    return b.call(aten.add.Tensor, scaled, _per_channel(b, shift, ndim))


@rule(aten.native_batch_norm_backward.default)
def _batch_norm_backward(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    dy, x, w, mean, var, center, rstd, training, eps, output_mask = args
    if training:
        sizes = _instances(x, mean)
        if sizes is None:
            return _by_batch_backward(b, dy, x, w, center, rstd, output_mask)
        center, rstd = (b.call(aten.reshape.default, v, [1, sizes[1]]) for v in (center, rstd))
        return _group_norm_gradients(b, (dy, x, center, rstd, w, *sizes), output_mask)
    ndim = x.meta["val"].ndim
    dims = [d for d in range(ndim) if d != 1]
    inv, scale = _bn_scale(b, w, var, eps)
    results: dict[int, fx.Node] = {}
    if output_mask[1]:
        centred = b.call(aten.sub.Tensor, x, _per_channel(b, mean, ndim))
        product = b.call(aten.sum.dim_IntList, b.call(aten.mul.Tensor, dy, centred), dims)
        results[1] = b.call(aten.mul.Tensor, product, inv)
    if output_mask[2]:
        results[2] = b.call(aten.sum.dim_IntList, dy, dims)
    if output_mask[0]:
        results[0] = b.call(aten.mul.Tensor, dy, _per_channel(b, scale, ndim))
    return results


def _by_batch_backward(
    b: Builder, dy: Any, x: Any, w: Any, mean: Any, inv: Any, output_mask: Any
) -> dict[int, fx.Node]:
    """With n elements per channel and xhat = (x - mean) inv (arXiv 1502.03167, section 3):

    dbeta = sum(dy), dgamma = sum(dy xhat), dx = w inv (dy - dbeta / n - xhat dgamma / n)
    """
    ndim, count = x.meta["val"].ndim, _count(x)
    dims = [d for d in range(ndim) if d != 1]
    centred = b.call(aten.sub.Tensor, x, _per_channel(b, mean, ndim))
    product = b.call(aten.sum.dim_IntList, b.call(aten.mul.Tensor, dy, centred), dims)
    dgamma = b.call(aten.mul.Tensor, product, inv)
    dbeta = b.call(aten.sum.dim_IntList, dy, dims)
    results = {1: dgamma, 2: dbeta}
    if output_mask[0]:
        slope = b.call(aten.mul.Scalar, b.call(aten.mul.Tensor, dgamma, inv), 1 / count)
        along = b.call(aten.mul.Tensor, centred, _per_channel(b, slope, ndim))
        level = _per_channel(b, b.call(aten.mul.Scalar, dbeta, 1 / count), ndim)
        rest = b.call(aten.sub.Tensor, b.call(aten.sub.Tensor, dy, along), level)
        scale = inv if w is None else b.call(aten.mul.Tensor, w, inv)
        results[0] = b.call(aten.mul.Tensor, rest, _per_channel(b, scale, ndim))
    return results


@rule(aten.native_layer_norm_backward.default)
def _layer_norm_backward(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    dy, _, normalized, *_, output_mask = args
    results: dict[int, fx.Node] = {}
    if output_mask[2]:
        outer = dy.meta["val"].ndim - len(normalized)
        results[2] = b.call(aten.sum.dim_IntList, dy, list(range(outer))) if outer else dy
    for i in (0, 1):
        if output_mask[i]:
            one = b.call(aten.native_layer_norm_backward.default, *args[:-1], [i == 0, i == 1, False])
            results[i] = take(b, one, i)
    return results


@rule(aten.native_group_norm_backward.default)
def _group_norm_backward(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    return _group_norm_gradients(b, args[:-1], args[-1])


def _group_norm_gradients(b: Builder, args: tuple[Any, ...], output_mask: list[bool]) -> dict[int, fx.Node]:
    dy = args[0]
    results: dict[int, fx.Node] = {}
    if output_mask[2]:
        dims = [d for d in range(dy.meta["val"].ndim) if d != 1]
        results[2] = b.call(aten.sum.dim_IntList, dy, dims)
    if output_mask[0] or output_mask[1]:
        rest = b.call(aten.native_group_norm_backward.default, *args, [output_mask[0], output_mask[1], False])
        results |= {i: take(b, rest, i) for i in (0, 1) if output_mask[i]}
    return results
