"""Losses and their backwards. `reduction` is ATen's: 0 none, 1 mean, 2 sum."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import fx

from . import emit, op
from .rules import Context, rule
from .value import Value

aten = torch.ops.aten

NONE, MEAN, SUM = range(3)


def _reduce(x: Value, reduction: int) -> Value:
    if reduction == NONE:
        return x
    dims = range(emit.rank(x))
    return emit.mean(x, dims) if reduction == MEAN else emit.total(x, dims)


def _unreduce(dy: Value, x: Value, reduction: int) -> Value:
    """The gradient of every element, given the reduced loss's."""
    return emit.scale(dy, 1 / math.prod(emit.shape(x))) if reduction == MEAN else dy


# ---------------------------------------------------------------- negative log likelihood


def _class_axis(x: Value) -> int:
    return 0 if emit.rank(x) == 1 else 1


def _targets(target: Value, weight: Value | None, x: Value, ignore_index: int) -> tuple[Value, Value, Value]:
    """Which samples count, their class indices and weights; 0 stands for both where one is ignored."""
    kept = op.not_equal(target, emit.like(ignore_index, target))
    safe = emit.keep_where(kept, target)
    if weight is None:
        return kept, safe, emit.convert(kept, emit.dtype(x))
    return kept, safe, emit.keep_where(kept, op.gather(weight, safe, 0))


@rule(aten.nll_loss_forward.default, aten.nll_loss2d_forward.default)
def nll_loss(
    ctx: Context,
    node: fx.Node,
    x: Value,
    target: Value,
    weight: Value | None,
    reduction: int,
    ignore_index: int,
) -> tuple[Value, Value]:
    """x [N, C, …] log probabilities, target [N, …] -> loss, total weight (0 where nothing is reduced)."""
    axis = _class_axis(x)
    _, safe, weights = _targets(target, weight, x, ignore_index)
    picked = op.gather_elements(x, emit.unsqueeze(safe, [axis]), axis)
    losses = op.negative(emit.mul(emit.reshape(picked, emit.shape(target)), weights))
    if reduction == NONE:
        return losses, emit.like(0, x)
    dims = range(emit.rank(losses))
    total_loss, total_weight = emit.total(losses, dims), emit.total(weights, dims)
    return (emit.div(total_loss, total_weight) if reduction == MEAN else total_loss), total_weight


@rule(aten.nll_loss_backward.default, aten.nll_loss2d_backward.default)
def nll_loss_backward(
    ctx: Context,
    node: fx.Node,
    dy: Value,
    x: Value,
    target: Value,
    weight: Value | None,
    reduction: int,
    ignore_index: int,
    total_weight: Value,
) -> Value:
    axis = _class_axis(x)
    kept, safe, weights = _targets(target, weight, x, ignore_index)
    dy = emit.div(dy, total_weight) if reduction == MEAN else dy
    # Selected, not multiplied: where every sample is ignored dy is 0/0, and the gradient still 0.
    factor = emit.keep_where(kept, op.negative(emit.mul(weights, dy)))
    factor = emit.unsqueeze(factor, [axis])
    hot = op.one_hot(safe, emit.shape(x)[axis], emit.const([0, 1], emit.dtype(x)), axis)
    return emit.mul(hot, factor)


# ---------------------------------------------------------------- regression


@rule(aten.mse_loss.default)
def mse_loss(ctx: Context, node: fx.Node, x: Value, target: Value, reduction: int) -> Value:
    delta = emit.sub(x, target)
    return _reduce(emit.mul(delta, delta), reduction)


@rule(aten.mse_loss_backward.default)
def mse_loss_backward(
    ctx: Context, node: fx.Node, dy: Value, x: Value, target: Value, reduction: int
) -> Value:
    return emit.mul(_unreduce(dy, x, reduction), emit.scale(emit.sub(x, target), 2))


def _near(delta: Value, bound: float) -> Value:
    return op.less(op.abs(delta), emit.like(bound, delta))


@rule(aten.smooth_l1_loss.default)
def smooth_l1_loss(
    ctx: Context, node: fx.Node, x: Value, target: Value, reduction: int, beta: float
) -> Value:
    delta = emit.sub(x, target)
    size = op.abs(delta)
    if beta == 0:
        return _reduce(size, reduction)
    square = emit.scale(emit.mul(delta, delta), 0.5 / beta)
    return _reduce(
        emit.select(_near(delta, beta), square, emit.sub(size, emit.like(0.5 * beta, x))), reduction
    )


@rule(aten.smooth_l1_loss_backward.default)
def smooth_l1_loss_backward(
    ctx: Context, node: fx.Node, dy: Value, x: Value, target: Value, reduction: int, beta: float
) -> Value:
    delta = emit.sub(x, target)
    slope = op.sign(delta)
    if beta > 0:
        slope = emit.select(_near(delta, beta), emit.scale(delta, 1 / beta), slope)
    return emit.mul(_unreduce(dy, x, reduction), slope)


@rule(aten.huber_loss.default)
def huber_loss(ctx: Context, node: fx.Node, x: Value, target: Value, reduction: int, bound: float) -> Value:
    delta = emit.sub(x, target)
    linear = emit.scale(emit.sub(op.abs(delta), emit.like(0.5 * bound, x)), bound)
    square = emit.scale(emit.mul(delta, delta), 0.5)
    return _reduce(emit.select(_near(delta, bound), square, linear), reduction)


@rule(aten.huber_loss_backward.default)
def huber_loss_backward(
    ctx: Context, node: fx.Node, dy: Value, x: Value, target: Value, reduction: int, bound: float
) -> Value:
    delta = emit.sub(x, target)
    slope = emit.select(_near(delta, bound), delta, emit.scale(op.sign(delta), bound))
    return emit.mul(_unreduce(dy, x, reduction), slope)


# ---------------------------------------------------------------- binary cross entropy


def _weighted(x: Value, weight: Value | None, reduction: Callable[[Value], Value]) -> Value:
    return reduction(x if weight is None else emit.mul(x, weight))


@rule(aten.binary_cross_entropy.default)
def binary_cross_entropy(
    ctx: Context, node: fx.Node, x: Value, target: Value, weight: Value | None, reduction: int
) -> Value:
    one, floor = emit.like(1, x), emit.like(-100, x)  # ATen clamps the logarithms at -100
    log_x = op.maximum(op.log(x), floor)
    log_rest = op.maximum(op.log(emit.sub(one, x)), floor)
    losses = emit.sub(emit.mul(emit.sub(target, one), log_rest), emit.mul(target, log_x))
    return _weighted(losses, weight, lambda v: _reduce(v, reduction))


@rule(aten.binary_cross_entropy_backward.default)
def binary_cross_entropy_backward(
    ctx: Context, node: fx.Node, dy: Value, x: Value, target: Value, weight: Value | None, reduction: int
) -> Value:
    spread = op.maximum(emit.mul(x, emit.sub(emit.like(1, x), x)), emit.like(1e-12, x))
    slope = emit.div(emit.sub(x, target), spread)
    return _weighted(slope, weight, lambda v: emit.mul(_unreduce(dy, x, reduction), v))


@rule(aten.binary_cross_entropy_with_logits.default)
def binary_cross_entropy_with_logits(
    ctx: Context,
    node: fx.Node,
    x: Value,
    target: Value,
    weight: Value | None,
    pos_weight: Value | None,
    reduction: int,
) -> Value:
    one = emit.like(1, x)
    soft = op.softplus(op.negative(x))  # -log(sigmoid(x))
    if pos_weight is not None:
        gain = emit.add(one, emit.mul(emit.sub(pos_weight, one), target))
        soft = emit.mul(gain, soft)
    losses = emit.add(emit.mul(emit.sub(one, target), x), soft)
    return _weighted(losses, weight, lambda v: _reduce(v, reduction))
