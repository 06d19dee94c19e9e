"""Activations and softmax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .operator_rules import NotRunnable, from_start, op


@op("Relu", 6, 13, 14)
def relu(x: Tensor) -> Tensor:
    return F.relu(x)


@op("Sigmoid", 6, 13)
def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


@op("Tanh", 6, 13)
def tanh(x: Tensor) -> Tensor:
    return torch.tanh(x)


@op("Softplus", 1, 22)
def softplus(x: Tensor) -> Tensor:
    return F.softplus(x)


@op("Softsign", 1, 22)
def softsign(x: Tensor) -> Tensor:
    return F.softsign(x)


@op("Mish", 18, 22)
def mish(x: Tensor) -> Tensor:
    return F.mish(x)


@op("HardSwish", 14, 22)
def hard_swish(x: Tensor) -> Tensor:
    return F.hardswish(x)


@op("HardSigmoid", 6, 22)
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    if math.isclose(alpha, 1 / 6, rel_tol=1e-7) and beta == 0.5:
        return F.hardsigmoid(x)
    return F.hardtanh(x * alpha + beta, 0.0, 1.0)


@op("LeakyRelu", 6, 16)
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


@op("ThresholdedRelu", 10, 22)
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.threshold(x, alpha, 0.0)


@op("PRelu", 7, 9, 16, leaves={"slope": "weight"})
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


@op("Elu", 6, 22)
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


@op("Celu", 12)
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(x, alpha)


@op("Selu", 6, 22)
def selu(x: Tensor, *, alpha: float = 1.6732632, gamma: float = 1.050701) -> Tensor:
    return F.elu(x, alpha) * gamma


@op("Gelu", 20)
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


@op("Swish", 24)
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(x * alpha)


@op("Clip", 6)
def clip_attributes(
    x: Tensor, *, min: float = -3.4028234663852886e38, max: float = 3.4028234663852886e38
) -> Tensor:
    return _clip(x, min if min > -3e38 else None, max if max < 3e38 else None)


@op("Clip", 11, 12, 13, host=("low", "high"))
def clip(x: Tensor, low: np.ndarray | None = None, high: np.ndarray | None = None) -> Tensor:
    return _clip(x, *(None if v is None else v.reshape(()).item() for v in (low, high)))


def _clip(x: Tensor, low: Any, high: Any) -> Tensor:
    """Two bounds as one `hardtanh`, whose backward needs no more than the result."""
    if low is None and high is None:
        return x
    if low is not None and high is not None and low < high and x.is_floating_point():
        return F.hardtanh(x, low, high)
    return x.clamp(low, high)


def _softmax_2d(x: Tensor, axis: int, log: bool) -> Tensor:
    """Before version 13: over all dimensions from `axis` on, as one."""
    axis = from_start(axis, x.ndim or 1)
    flat = x.reshape(*x.shape[:axis], -1)
    return (F.log_softmax(flat, -1) if log else F.softmax(flat, -1)).reshape(x.shape)


@op("Softmax", 1, 11)
def softmax_2d(x: Tensor, *, axis: int = 1) -> Tensor:
    return _softmax_2d(x, axis, log=False)


@op("LogSoftmax", 1, 11)
def log_softmax_2d(x: Tensor, *, axis: int = 1) -> Tensor:
    return _softmax_2d(x, axis, log=True)


@op("Softmax", 13)
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return F.softmax(x, axis)


@op("LogSoftmax", 13)
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return F.log_softmax(x, axis)


@op("Shrink", 9)
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    if not x.is_floating_point():
        raise NotRunnable("it is supported on floating-point tensors only")
    zero = torch.zeros_like(x)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero))
