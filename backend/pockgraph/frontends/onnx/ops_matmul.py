"""Matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .operator_rules import op


@op("MatMul", 1, 9, 13, leaves={"a": "weight", "b": "weight"})
def matmul(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@op("Gemm", 7, 9, 11, 13, leaves={"a": "weight", "b": "weight", "c": "bias"})
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    a = a.t() if transA else a
    if alpha == 1 and beta == 1 and (c is None or c.ndim == 1):
        return F.linear(a, b if transB else b.t(), c)
    y = torch.matmul(a, b.t() if transB else b)
    y = y if alpha == 1 else y * alpha
    if c is None:
        return y
    return y + (c if beta == 1 else c * beta)


@op("Einsum", 12)
def einsum(*xs: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation.replace(" ", ""), *xs)
