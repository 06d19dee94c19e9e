"""Gradients of activations, where PyTorch's own decompositions do not serve."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .table import expands

aten = torch.ops.aten


@expands(aten.gelu_backward.default)
def gelu_backward(dy: Tensor, x: Tensor, *, approximate: str) -> Tensor:
    """PyTorch's decomposition of the tanh form takes two products more."""
    square = x * x
    if approximate == "tanh":
        # y = x/2 (1 + tanh u), u = a (x + b x³); y' = (1 + tanh u)/2 (1 + (1 - tanh u) x u')
        a, b = math.sqrt(2 / math.pi), 0.044715
        t = torch.tanh(x * (a + a * b * square))
        return dy * (0.5 * (1 + t) * (1 + (1 - t) * x * (a + 3 * a * b * square)))
    # y = x Φ(x); y' = Φ(x) + x φ(x)
    cdf = 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))
    return dy * (cdf + x * (torch.exp(-0.5 * square) * (1 / math.sqrt(2 * math.pi))))


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
