"""Normalisations, as at inference: batch norm with its running statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .operator_rules import NotRunnable, from_start, only, op

_BATCH_NORM: dict[str, Any] = {
    "leaves": {"scale": "weight", "b": "bias", "mean": "running_mean", "var": "running_var"},
    "buffers": ("mean", "var"),
    "check": only(training_mode=0, spatial=1),
}


@op("BatchNormalization", 7, 9, **_BATCH_NORM)
def batch_normalization_9(
    x: Tensor, scale: Tensor, b: Tensor, mean: Tensor, var: Tensor, *, outputs: int, epsilon: float = 1e-5,
    momentum: float = 0.9, spatial: int = 1,
) -> Tensor:  # fmt: skip
    """Further outputs, read or not, are how these versions say that a batch's own statistics count."""
    if outputs > 1:
        raise NotRunnable("the model was exported in training mode; export it for inference")
    return batch_normalization(x, scale, b, mean, var, epsilon=epsilon)


@op("BatchNormalization", 14, 15, **_BATCH_NORM)
def batch_normalization(
    x: Tensor,
    scale: Tensor,
    b: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Tensor:
    return F.batch_norm(x, mean, var, scale, b, training=False, eps=epsilon)


@op("InstanceNormalization", 6, 22, leaves={"scale": "weight", "b": "bias"})
def instance_normalization(x: Tensor, scale: Tensor, b: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return F.group_norm(x, x.shape[1], scale, b, epsilon)


@op("GroupNormalization", 18, leaves={"scale": "weight", "b": "bias"})
def group_normalization_18(
    x: Tensor, scale: Tensor, b: Tensor, *, num_groups: int, epsilon: float = 1e-5
) -> Tensor:
    """One scale and bias a group."""
    each = x.shape[1] // num_groups
    scale, b = (v.repeat_interleave(each, output_size=x.shape[1]) for v in (scale, b))
    return F.group_norm(x, num_groups, scale, b, epsilon)


@op("GroupNormalization", 21, leaves={"scale": "weight", "b": "bias"}, check=only(stash_type=1))
def group_normalization(
    x: Tensor, scale: Tensor, b: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    return F.group_norm(x, num_groups, scale, b, epsilon)


@op("LayerNormalization", 17, leaves={"scale": "weight", "b": "bias"}, check=only(stash_type=1))
def layer_normalization(
    x: Tensor,
    scale: Tensor,
    b: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    over = tuple(x.shape[from_start(axis, x.ndim) :])
    if tuple(scale.shape) == over and (b is None or tuple(b.shape) == over):
        return F.layer_norm(x, over, scale, b, epsilon)
    y = F.layer_norm(x, over, None, None, epsilon) * scale
    return y if b is None else y + b


@op("RMSNormalization", 23, leaves={"scale": "weight"}, check=only(stash_type=1))
def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    dims = tuple(range(from_start(axis, x.ndim), x.ndim))
    return x * torch.rsqrt(x.square().mean(dims, keepdim=True) + epsilon) * scale


@op("LpNormalization", 1, 22, check=only(p=(2, 1)))
def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """A norm of zero gives zero."""
    norm = x.abs().sum(axis, True) if p == 1 else x.square().sum(axis, True).sqrt()
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


def _odd_window(attributes: Mapping[str, Any]) -> str:
    return "" if attributes["size"] % 2 else f"size={attributes['size']} is not supported, only odd ones"


@op("LRN", 1, 13, check=_odd_window)
def local_response_normalization(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    """Over a window of `size` channels."""
    channels = x.shape[1]
    squares = F.pad(x.square(), [0, 0] * (x.ndim - 2) + [size // 2, size // 2])
    total = squares[:, :channels]
    for i in range(1, size):
        total = total + squares[:, i : i + channels]
    return x / (bias + total * (alpha / size)) ** beta
