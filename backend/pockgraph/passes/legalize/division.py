"""Quotients and remainders of floating-point numbers, from the remainder of C."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .table import Inexpansible, expands

aten = torch.ops.aten


def _signs_differ(rest: Tensor, y: Any) -> Tensor:
    """Where `rest` is not zero, and has another sign than y."""
    return ((rest < 0) ^ (y < 0)) & (rest != 0)


@expands(aten.remainder.Tensor, aten.remainder.Scalar)
def remainder(x: Tensor, y: Any) -> Tensor:
    rest = torch.fmod(x, y)
    if not rest.is_floating_point():
        raise Inexpansible("")
    return torch.where(_signs_differ(rest, y), rest + y, rest)


@expands(aten.div.Tensor_mode, aten.div.Scalar_mode)
def divide(x: Tensor, y: Any, *, rounding_mode: str | None) -> Tensor:
    ratio = torch.true_divide(x, y)
    if rounding_mode is None:
        return ratio
    if not torch.result_type(x, y).is_floating_point:
        raise Inexpansible("")
    if rounding_mode == "trunc":
        return torch.trunc(ratio)
    # What is left of x after whole y's decides, as the ratio itself may be rounded up.
    rest = torch.fmod(x, y)
    whole = (x - rest) / y
    whole = torch.where(_signs_differ(rest, y), whole - 1, whole)
    below = torch.floor(whole)
    return torch.where(whole - below > 0.5, below + 1, below)
