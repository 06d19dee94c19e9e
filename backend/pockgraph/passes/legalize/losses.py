"""Margin losses of several classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .table import expands

aten = torch.ops.aten

MEAN = 1  # of ATen's reductions: none, mean, sum


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
    total = {0: loss.reshape(x.shape[:-1]), MEAN: loss.mean(), 2: loss.sum()}[reduction]
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
