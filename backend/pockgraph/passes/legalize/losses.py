"""Losses of class labels and of probabilities. PyTorch's own decompositions serve for the others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .table import expands

aten = torch.ops.aten

NONE, MEAN, SUM = range(3)  # ATen's reductions


# ---------------------------------------------------------------- negative log likelihood


def _class_axis(x: Tensor) -> int:
    return 0 if x.ndim == 1 else 1


def _counted(target: Tensor, weight: Tensor | None, x: Tensor, ignore_index: int) -> tuple[Tensor, ...]:
    """Which samples count, their labels and weights; 0 stands for both where one is ignored."""
    kept = target != ignore_index
    labels = torch.where(kept, target, 0)
    if weight is None:
        return kept, labels, kept.to(x.dtype)
    weights = weight.index_select(0, labels.reshape(-1)).reshape(labels.shape)
    return kept, labels, torch.where(kept, weights, 0.0)


@expands(aten.nll_loss_forward.default, aten.nll_loss2d_forward.default)
def nll_loss(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """x [N, C, …] log probabilities, target [N, …] -> loss, total weight (0 where nothing is reduced)."""
    axis = _class_axis(x)
    kept, labels, weights = _counted(target, weight, x, ignore_index)
    losses = -x.gather(axis, labels.unsqueeze(axis)).squeeze(axis)
    # Selected, not multiplied: the loss of an ignored sample may be infinite.
    losses = torch.where(kept, losses if weight is None else losses * weights, 0.0)
    if reduction == NONE:
        return losses, x.new_zeros(())
    total_loss, total_weight = losses.sum(), weights.sum()
    return (total_loss / total_weight if reduction == MEAN else total_loss), total_weight


@expands(aten.nll_loss_backward.default, aten.nll_loss2d_backward.default)
def nll_loss_backward(
    dy: Tensor,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    total_weight: Tensor,
) -> Tensor:
    axis = _class_axis(x)
    kept, labels, weights = _counted(target, weight, x, ignore_index)
    dy = dy / total_weight if reduction == MEAN else dy
    # Selected, not multiplied: where every sample is ignored dy is 0/0, and the gradient still 0.
    of_label = torch.where(kept, -(weights * dy), 0.0)
    hot = labels.unsqueeze(-1) == torch.arange(x.shape[axis])
    return torch.where(hot, of_label.unsqueeze(-1), 0.0).movedim(-1, axis)


# ---------------------------------------------------------------- binary cross entropy


def _reduced(losses: Tensor, weight: Tensor | None, reduction: int) -> Tensor:
    losses = losses if weight is None else losses * weight
    if reduction == NONE:
        return losses
    return losses.mean() if reduction == MEAN else losses.sum()


@expands(aten.binary_cross_entropy.default)
def binary_cross_entropy(x: Tensor, target: Tensor, weight: Tensor | None, reduction: int) -> Tensor:
    """PyTorch's decomposition takes log1p(-x), which runtimes compute in eight steps."""
    log_x, log_rest = (torch.log(p).clamp_min(-100) for p in (x, 1 - x))  # ATen's clamp
    return _reduced((target - 1) * log_rest - target * log_x, weight, reduction)


@expands(aten.binary_cross_entropy_with_logits.default)
def binary_cross_entropy_with_logits(
    x: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, reduction: int
) -> Tensor:
    log_probability = F.logsigmoid(x)
    if pos_weight is not None:
        log_probability = ((pos_weight - 1) * target + 1) * log_probability
    return _reduced((1 - target) * x - log_probability, weight, reduction)


# ---------------------------------------------------------------- margins of several classes


def _of_each(dy: Tensor, samples: int, classes: int, reduction: int) -> Tensor:
    """What the gradient of a loss makes of one class of one sample, [N, 1] or a scalar."""
    share = dy / classes / (samples if reduction == MEAN else 1)
    return share.reshape(-1, 1) if share.ndim else share


@expands(aten.multi_margin_loss_backward.default)
def multi_margin_loss_backward(
    dy: Tensor, x: Tensor, label: Tensor, p: float, margin: float, weight: Tensor | None, reduction: int
) -> Tensor:
    scores, labels = x.reshape(-1, x.shape[-1]), label.reshape(-1)
    samples, classes = scores.shape
    over = margin - scores.gather(1, labels[:, None]) + scores
    true = F.one_hot(labels, classes).to(torch.bool)
    slope = torch.where((over > 0) & ~true, 1.0 if p == 1 else 2 * over, 0.0)
    if weight is not None:
        slope = slope * weight.index_select(0, labels)[:, None]
    slope = slope * _of_each(dy, samples, classes, reduction)
    return torch.where(true, -slope.sum(1, keepdim=True), slope).reshape(x.shape)


def _multilabel(scores: Tensor, listed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of scores and lists of labels [N, C].

    Returns:
        The labels; which classes are listed; how far each other class comes too near to each label,
        [N, C, C]; and where that counts.
    """
    valid = (listed < 0).cumsum(1) == 0  # a list ends at the first -1
    labels = listed.clamp_min(0)
    is_target = torch.zeros_like(scores).scatter_add(1, labels, valid.to(scores.dtype)) > 0
    over = 1 - scores.gather(1, labels)[:, :, None] + scores[:, None]
    return labels, is_target, over, (over > 0) & valid[:, :, None] & ~is_target[:, None]


@expands(aten.multilabel_margin_loss_forward.default)
def multilabel_margin_loss(x: Tensor, labels: Tensor, reduction: int) -> tuple[Tensor, Tensor]:
    scores, listed = x.reshape(-1, x.shape[-1]), labels.reshape(-1, x.shape[-1])
    _, is_target, over, counts = _multilabel(scores, listed)
    loss = torch.where(counts, over, 0.0).sum((1, 2)) / scores.shape[1]
    total = {NONE: loss.reshape(x.shape[:-1]), MEAN: loss.mean(), SUM: loss.sum()}[reduction]
    return total, is_target.to(x.dtype).reshape(labels.shape)


@expands(aten.multilabel_margin_loss_backward.default)
def multilabel_margin_loss_backward(
    dy: Tensor, x: Tensor, labels: Tensor, reduction: int, is_target: Tensor
) -> Tensor:
    scores, listed = x.reshape(-1, x.shape[-1]), labels.reshape(-1, x.shape[-1])
    samples, classes = scores.shape
    place, _, _, counts = _multilabel(scores, listed)
    active = counts.to(x.dtype)
    slope = active.sum(1).scatter_add(1, place, -active.sum(2))
    return (slope * _of_each(dy, samples, classes, reduction)).reshape(x.shape)
