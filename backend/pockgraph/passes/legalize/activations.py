"""Activations and their gradients, where PyTorch's own decompositions do not serve."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .table import expands

aten = torch.ops.aten
# y = x/2 (1 + tanh u), u = A (x + B x³)
A, B = math.sqrt(2 / math.pi), 0.044715


@expands(aten.gelu.default)
def gelu(x: Tensor, *, approximate: str) -> Tensor:
    gain = torch.tanh(x * (A + A * B * (x * x))) if approximate == "tanh" else torch.erf(x * math.sqrt(0.5))
    return x * 0.5 * (1 + gain)


@expands(aten.gelu_backward.default)
def gelu_backward(dy: Tensor, x: Tensor, *, approximate: str) -> Tensor:
    """PyTorch's decomposition of the tanh form takes two products more."""
    square = x * x
    if approximate == "tanh":
        # y' = (1 + tanh u)/2 (1 + (1 - tanh u) x u')
        t = torch.tanh(x * (A + A * B * square))
        return dy * (0.5 * (1 + t) * (1 + (1 - t) * x * (A + 3 * A * B * square)))
    # y = x Φ(x); y' = Φ(x) + x φ(x)
    cdf = 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))
    return dy * (cdf + x * (torch.exp(-0.5 * square) * (1 / math.sqrt(2 * math.pi))))


@expands(aten.hardswish.default)
def hardswish(x: Tensor) -> Tensor:
    """PyTorch's decomposition clamps, where runtimes have a hard sigmoid."""
    return x * F.hardsigmoid(x)


@expands(aten.hardsigmoid_backward.default)
def hardsigmoid_backward(dy: Tensor, x: Tensor) -> Tensor:
    """PyTorch's decomposition chooses; a masked gradient is what ONNX Runtime is fast at."""
    return (dy / 6).masked_fill(x.abs() >= 3, 0.0)


@expands(aten.silu_backward.default)
def silu_backward(dy: Tensor, x: Tensor) -> Tensor:
    """PyTorch's decomposition begins with dy, which keeps one tensor more alive."""
    s = torch.sigmoid(x)
    return dy * (s * (1 + x * (1 - s)))


@expands(aten.elu.default)
def elu(x: Tensor, alpha: float, scale: float, input_scale: float) -> Tensor:
    return scale * torch.where(x > 0, x, alpha * torch.expm1((x * input_scale).clamp_max(0)))


@expands(aten.celu.default)
def celu(x: Tensor, alpha: float) -> Tensor:
    """PyTorch's decomposition takes the exponential of large numbers, too."""
    return elu(x, alpha, 1, 1 / alpha)


@expands(aten.elu_backward.default)
def elu_backward(
    dy: Tensor, alpha: float, scale: float, input_scale: float, is_result: bool, x: Tensor
) -> Tensor:
    """PyTorch's decomposition takes the exponential of large numbers, too, which ONNX Runtime is slow at."""
    if is_result:
        slope = (x + alpha * scale) * input_scale
    else:
        slope = torch.exp((x * input_scale).clamp_max(0)) * (input_scale * alpha * scale)
    return dy * torch.where(x > 0, float(scale), slope)


@expands(aten.log_sigmoid_backward.default)
def log_sigmoid_backward(dy: Tensor, x: Tensor, buffer: Tensor) -> Tensor:
    """`buffer` is what ATen's kernel keeps of the forward pass; nothing else makes one."""
    return dy * torch.sigmoid(-x)
