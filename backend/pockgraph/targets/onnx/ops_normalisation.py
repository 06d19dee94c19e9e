"""Layer, group and batch normalisation, softmax, and their backwards.

ONNX's LayerNormalization gives the statistics that ATen returns along with the normalised tensor; the
others are written out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from . import emit, op
from .rules import Context, check, rule
from .value import Value

aten = torch.ops.aten


def _statistics(x: Value, dims: Sequence[int], eps: float) -> tuple[Value, Value]:
    """Mean and 1/sqrt(variance + eps), dimensions kept."""
    center = emit.mean(x, dims, keepdim=True)
    delta = emit.sub(x, center)
    variance = emit.mean(emit.mul(delta, delta), dims, keepdim=True)
    root = op.sqrt(emit.add(variance, emit.like(eps, x)))
    return center, emit.div(emit.like(1, x), root)


def _affine(x: Value, weight: Value | None, bias: Value | None) -> Value:
    x = x if weight is None else emit.mul(x, weight)
    return x if bias is None else emit.add(x, bias)


def _normalised_backward(g: Value, xhat: Value, rstd: Value, dims: Sequence[int]) -> Value:
    """dx = rstd (g - mean(g) - xhat mean(g xhat)), g the gradient of the normalised tensor."""
    along = emit.mul(xhat, emit.mean(emit.mul(g, xhat), dims, keepdim=True))
    return emit.mul(rstd, emit.sub(emit.sub(g, emit.mean(g, dims, keepdim=True)), along))


# ---------------------------------------------------------------- layer norm


@rule(aten.native_layer_norm.default)
def layer_norm(
    ctx: Context,
    node: fx.Node,
    x: Value,
    size: Sequence[int],
    weight: Value | None,
    bias: Value | None,
    eps: float,
) -> tuple[Value, Value, Value]:
    gain = emit.full(1, size, emit.dtype(x)) if weight is None else weight
    y, center, rstd = op.layer_norm(x, gain, bias, emit.rank(x) - len(size), eps)
    return y, center, rstd


@rule(aten.native_layer_norm_backward.default)
def layer_norm_backward(
    ctx: Context,
    node: fx.Node,
    dy: Value,
    x: Value,
    size: Sequence[int],
    center: Value,
    rstd: Value,
    weight: Value | None,
    bias: Value | None,
    mask: Sequence[bool],
) -> tuple[Value | None, ...]:
    lead = emit.rank(x) - len(size)
    dims = range(lead, emit.rank(x))
    xhat = emit.mul(emit.sub(x, center), rstd)
    dx = dw = db = None
    if mask[0]:
        dx = _normalised_backward(dy if weight is None else emit.mul(dy, weight), xhat, rstd, dims)
    if mask[1]:
        dw = emit.total(emit.mul(dy, xhat), range(lead))
    if mask[2]:
        db = emit.total(dy, range(lead))
    return dx, dw, db


# ---------------------------------------------------------------- group norm


def _in_groups(x: Value, n: int, groups: int) -> Value:
    return emit.reshape(x, [n, groups, math.prod(emit.shape(x)) // (n * groups)])


@rule(aten.native_group_norm.default)
def group_norm(
    ctx: Context,
    node: fx.Node,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    n: int,
    c: int,
    hw: int,
    groups: int,
    eps: float,
) -> tuple[Value, Value, Value]:
    grouped = _in_groups(x, n, groups)  # [N, G, C/G HW]
    center, rstd = _statistics(grouped, [2], eps)
    y = emit.reshape(emit.mul(emit.sub(grouped, center), rstd), emit.shape(x))
    weight, bias = (None if v is None else emit.per_channel(v, emit.rank(x)) for v in (weight, bias))
    return _affine(y, weight, bias), emit.reshape(center, [n, groups]), emit.reshape(rstd, [n, groups])


@rule(aten.native_group_norm_backward.default)
def group_norm_backward(
    ctx: Context,
    node: fx.Node,
    dy: Value,
    x: Value,
    center: Value,
    rstd: Value,
    weight: Value | None,
    n: int,
    c: int,
    hw: int,
    groups: int,
    mask: Sequence[bool],
) -> tuple[Value | None, ...]:
    center, rstd = emit.unsqueeze(center, [2]), emit.unsqueeze(rstd, [2])  # [N, G, 1]
    xhat = emit.mul(emit.sub(_in_groups(x, n, groups), center), rstd)
    others = [0, *range(2, emit.rank(x))]
    dx = dw = db = None
    if mask[0]:
        g = dy if weight is None else emit.mul(dy, emit.per_channel(weight, emit.rank(x)))
        dx = _normalised_backward(_in_groups(g, n, groups), xhat, rstd, [2])
        dx = emit.reshape(dx, emit.shape(x))
    if mask[1]:
        dw = emit.total(emit.mul(dy, emit.reshape(xhat, emit.shape(x))), others)
    if mask[2]:
        db = emit.total(dy, others)
    return dx, dw, db


# ---------------------------------------------------------------- batch norm, running statistics


def _batch_norm_terms(x: Value, mean: Value, var: Value, eps: float) -> tuple[Value, Value]:
    root = op.sqrt(emit.add(var, emit.like(eps, var)))
    rstd = emit.div(emit.like(1, var), root)
    return emit.per_channel(mean, emit.rank(x)), emit.per_channel(rstd, emit.rank(x))


@rule(aten._native_batch_norm_legit_no_training.default)
def batch_norm(
    ctx: Context,
    node: fx.Node,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    var: Value,
    momentum: float,
    eps: float,
) -> tuple[Value, None, None]:
    center, rstd = _batch_norm_terms(x, mean, var, eps)
    weight, bias = (None if v is None else emit.per_channel(v, emit.rank(x)) for v in (weight, bias))
    return _affine(emit.mul(emit.sub(x, center), rstd), weight, bias), None, None


@rule(aten.native_batch_norm.default)
def native_batch_norm(
    ctx: Context,
    node: fx.Node,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    var: Value,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Value, None, None]:
    return batch_norm(ctx, node, x, weight, bias, mean, var, momentum, eps)


@rule(aten.native_batch_norm_backward.default)
def batch_norm_backward(
    ctx: Context,
    node: fx.Node,
    dy: Value,
    x: Value,
    weight: Value | None,
    mean: Value,
    var: Value,
    save_mean: None,
    save_rstd: None,
    training: bool,
    eps: float,
    mask: Sequence[bool],
) -> tuple[Value | None, ...]:
    center, rstd = _batch_norm_terms(x, mean, var, eps)
    others = [0, *range(2, emit.rank(x))]
    factor = rstd if weight is None else emit.mul(rstd, emit.per_channel(weight, emit.rank(x)))
    dx = emit.mul(dy, factor) if mask[0] else None
    dw = emit.total(emit.mul(dy, emit.mul(emit.sub(x, center), rstd)), others) if mask[1] else None
    db = emit.total(dy, others) if mask[2] else None
    return dx, dw, db


_TRAINING = "batch statistics are not supported; use the model in eval mode (running statistics)"


@check(aten.native_batch_norm.default)
def _no_training(
    node: fx.Node, x: Any, w: Any, b: Any, mean: Any, var: Any, training: bool, *rest: Any
) -> str:
    return _TRAINING if training else ""


@check(aten.native_batch_norm_backward.default)
def _no_training_backward(node: fx.Node, *args: Any) -> str:
    return _TRAINING if args[7] else ""


# ---------------------------------------------------------------- softmax


@rule(aten._softmax.default)
def softmax(ctx: Context, node: fx.Node, x: Value, dim: int, half_to_float: bool) -> Value:
    return op.softmax(emit.convert(x, node.meta["val"].dtype), emit.axis(dim, emit.rank(x)))


@rule(aten._softmax_backward_data.default)
def softmax_backward(ctx: Context, node: fx.Node, dy: Value, y: Value, dim: int, dtype: Any) -> Value:
    return emit.mul(y, emit.sub(dy, emit.total(emit.mul(dy, y), [dim], keepdim=True)))


@rule(aten._log_softmax.default)
def log_softmax(ctx: Context, node: fx.Node, x: Value, dim: int, half_to_float: bool) -> Value:
    return op.log_softmax(emit.convert(x, node.meta["val"].dtype), emit.axis(dim, emit.rank(x)))


@rule(aten._log_softmax_backward_data.default)
def log_softmax_backward(ctx: Context, node: fx.Node, dy: Value, y: Value, dim: int, dtype: Any) -> Value:
    return emit.sub(dy, emit.mul(op.exp(y), emit.total(dy, [dim], keepdim=True)))
