"""Pooling, adaptive pooling and resampling, with their backwards.

Average pooling and resampling are products with constant matrices (`targets.resampling`). Where ONNX has
the forward as one operator of the same meaning, that is used.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..resampling import adaptive_matrix, average_matrices, linear_matrix, nearest_matrix, pair
from . import emit, op
from .rules import Context, check, rule
from .value import Value

aten = torch.ops.aten


def _along(x: Value, matrices: Sequence[torch.Tensor]) -> Value:
    """x [..., H, W] -> [..., H', W'] by matrices [H', H] and [W', W]."""
    height, width = (m.to(emit.dtype(x)) for m in matrices)
    if not torch.equal(width, torch.eye(len(width))):
        x = emit.matmul(x, emit.tensor(width.T))
    if not torch.equal(height, torch.eye(len(height))):
        x = emit.matmul(emit.tensor(height), x)
    return x


# ---------------------------------------------------------------- max pooling


def _pads_end(x: Value, out: Sequence[int], k: Sequence[int], s: Sequence[int], p: Any, d: Any) -> list[int]:
    """What must be added behind so that `out` windows fit (ceil mode needs more than `p`)."""
    sizes = emit.shape(x)[-len(out) :]
    return [max((o - 1) * s[i] + d[i] * (k[i] - 1) + 1 - sizes[i] - p[i], 0) for i, o in enumerate(out)]


@rule(aten.max_pool2d_with_indices.default)
def max_pool2d(
    ctx: Context,
    node: fx.Node,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> tuple[Value, None]:
    """The indices are not made: the backward below compares values instead."""
    out = tuple(node.meta["val"][0].shape)[-2:]
    return _max_pool2d(x, out, kernel, stride, padding, dilation), None


def _max_pool2d(x: Value, out: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any) -> Value:
    k, p, d = pair(kernel), pair(padding), pair(dilation)
    s = pair(stride) if stride else k
    lead = emit.shape(x)[:-3]
    x = emit.reshape(x, (1, *emit.shape(x))) if not lead else x
    end = _pads_end(x, out, k, s, p, d)
    if any(n >= m for n, m in zip((*p, *end), (*k, *k))):  # ONNX Runtime pads less than a window
        lowest = torch.finfo(emit.dtype(x)).min
        x, p, end = emit.pad(x, [0, 0, *p], [0, 0, *end], lowest), (0, 0), [0, 0]
    space = {"kernel_shape": list(k), "strides": list(s), "dilations": list(d), "pads": [*p, *end]}
    y = op.max_pool(x, out, **space)
    return y if lead else emit.reshape(y, emit.shape(y)[1:])


@rule(aten.max_pool2d_with_indices_backward.default)
def max_pool2d_backward(
    ctx: Context,
    node: fx.Node,
    dy: Value,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: None,
) -> Value:
    """Each offset of the window takes dy where its value is the maximum and no earlier offset's was."""
    k, p, d = pair(kernel), pair(padding), pair(dilation)
    s = pair(stride) if stride else k
    out = emit.shape(dy)[-2:]
    ndim = emit.rank(x)
    dims = [ndim - 2, ndim - 1]
    y = _max_pool2d(x, out, kernel, stride, padding, dilation)
    end = _pads_end(x, out, k, s, p, d)
    lead = [0] * (ndim - 2)
    lowest = torch.finfo(emit.dtype(x)).min
    padded = emit.pad(x, [*lead, *p], [*lead, *end], lowest)
    size = emit.shape(padded)
    taken, dx = None, None
    for offset in itertools.product(range(k[0]), range(k[1])):
        start = [offset[i] * d[i] for i in range(2)]
        spans = [(start[i], start[i] + (out[i] - 1) * s[i] + 1, s[i]) for i in range(2)]
        hit = op.equal(emit.cut_many(padded, dims, spans), y)
        mine = hit if taken is None else op.logical_and(hit, op.logical_not(taken))
        taken = hit if taken is None else op.logical_or(taken, hit)
        part = emit.dilate(emit.keep_where(mine, dy), dims, s)
        part = emit.cut_many(part, dims, [(0, (o - 1) * step + 1, 1) for o, step in zip(out, s)])
        behind = [size[dim] - start[i] - emit.shape(part)[dim] for i, dim in enumerate(dims)]
        part = emit.pad(part, [*lead, *start], [*lead, *behind])
        dx = part if dx is None else emit.add(dx, part)
    assert dx is not None
    return emit.cut_many(dx, dims, [(p[i], p[i] + emit.shape(x)[dim], 1) for i, dim in enumerate(dims)])


@check(aten.max_pool2d_with_indices.default)
def _indices_unused(node: fx.Node, *args: Any) -> str:
    for user in node.users:
        if user.args[1] == 1 and any(
            reader.target is not aten.max_pool2d_with_indices_backward.default for reader in user.users
        ):
            return "the indices of max pooling are not available, only its values"
    return ""


# ---------------------------------------------------------------- average pooling


@rule(aten.avg_pool2d.default)
def avg_pool2d(
    ctx: Context,
    node: fx.Node,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    include_pad: bool,
    divisor: int | None,
) -> Value:
    out = tuple(node.meta["val"].shape)[-2:]
    if ceil_mode or divisor is not None or emit.rank(x) != 4:
        sizes = emit.shape(x)[-2:]
        return _along(x, average_matrices(sizes, out, kernel, stride, padding, include_pad, divisor))
    k, p = list(pair(kernel)), list(pair(padding))
    s = list(pair(stride)) if stride else k
    return op.average_pool(
        x, out, kernel_shape=k, strides=s, pads=[*p, *p], count_include_pad=int(include_pad)
    )


@rule(aten.avg_pool2d_backward.default)
def avg_pool2d_backward(
    ctx: Context,
    node: fx.Node,
    dy: Value,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    include_pad: bool,
    divisor: int | None,
) -> Value:
    sizes, out = emit.shape(x)[-2:], emit.shape(dy)[-2:]
    matrices = average_matrices(sizes, out, kernel, stride, padding, include_pad, divisor)
    return _along(dy, [m.T for m in matrices])


@rule(aten._adaptive_avg_pool2d.default)
def adaptive_avg_pool2d(ctx: Context, node: fx.Node, x: Value, out: Sequence[int]) -> Value:
    sizes = emit.shape(x)[-2:]
    if tuple(out) == (1, 1):
        return emit.mean(x, [-2, -1], keepdim=True)
    if emit.rank(x) == 4 and all(n % o == 0 for n, o in zip(sizes, out)):
        k = [n // o for n, o in zip(sizes, out)]
        return op.average_pool(x, out, kernel_shape=k, strides=k)
    return _along(x, [adaptive_matrix(n, o) for n, o in zip(sizes, out)])


@rule(aten._adaptive_avg_pool2d_backward.default)
def adaptive_avg_pool2d_backward(ctx: Context, node: fx.Node, dy: Value, x: Value) -> Value:
    sizes, out = emit.shape(x)[-2:], emit.shape(dy)[-2:]
    if out == (1, 1):
        return emit.broadcast(emit.scale(dy, 1 / (sizes[0] * sizes[1])), emit.shape(x))
    return _along(dy, [adaptive_matrix(n, o).T for n, o in zip(sizes, out)])


# ---------------------------------------------------------------- resampling


@rule(aten.upsample_nearest2d.default)
def upsample_nearest2d(ctx: Context, node: fx.Node, x: Value, out: Any, *scales: float | None) -> Value:
    sizes = emit.shape(x)[-2:]
    return _along(x, [nearest_matrix(n, o, s) for n, o, s in zip(sizes, out, scales)])


@rule(aten.upsample_nearest2d.vec)
def upsample_nearest2d_vec(ctx: Context, node: fx.Node, x: Value, size: Any, scales: Any) -> Value:
    out = tuple(node.meta["val"].shape)[-2:]
    return upsample_nearest2d(ctx, node, x, out, *(scales or (None, None)))


@rule(aten.upsample_nearest2d_backward.default)
def upsample_nearest2d_backward(
    ctx: Context, node: fx.Node, dy: Value, out: Any, size: Any, *scales: float | None
) -> Value:
    return _along(dy, [nearest_matrix(n, o, s).T for n, o, s in zip(size[-2:], out, scales)])


@rule(aten.upsample_bilinear2d.default)
def upsample_bilinear2d(
    ctx: Context, node: fx.Node, x: Value, out: Any, align_corners: bool, *scales: float | None
) -> Value:
    sizes = emit.shape(x)[-2:]
    return _along(x, [linear_matrix(n, o, s, align_corners) for n, o, s in zip(sizes, out, scales)])


@rule(aten.upsample_bilinear2d.vec)
def upsample_bilinear2d_vec(
    ctx: Context, node: fx.Node, x: Value, size: Any, align_corners: bool, scales: Any
) -> Value:
    out = tuple(node.meta["val"].shape)[-2:]
    return upsample_bilinear2d(ctx, node, x, out, align_corners, *(scales or (None, None)))


@rule(aten.upsample_bilinear2d_backward.default)
def upsample_bilinear2d_backward(
    ctx: Context, node: fx.Node, dy: Value, out: Any, size: Any, align_corners: bool, *scales: float | None
) -> Value:
    return _along(dy, [linear_matrix(n, o, s, align_corners).T for n, o, s in zip(size[-2:], out, scales)])
