"""Batch norms that keep running statistics: what a step writes into them, as operators of a static graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..ir.graph import aten
from ..task.task import BATCH_NORMS


def _written(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float
) -> Any:
    """A batch norm in training mode writes its running statistics, though its schema does not say so."""
    if not training or mean is None:
        return NotImplemented
    return aten._native_batch_norm_legit.default(x, weight, bias, mean, var, training, momentum, eps)


WRITTEN: Any = {aten.native_batch_norm.default: _written}


def plain_averages(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """Module path -> batch norm in training mode that keeps the plain average of all statistics.

    It divides by the value of its batch counter, which no static graph can.
    """
    return {
        name: m  # pyright: ignore
        for name, m in model.named_modules()
        if isinstance(m, BATCH_NORMS) and m.training and m.track_running_stats and m.momentum is None
    }


def averaged(new: dict[str, Tensor], old: Mapping[str, Tensor], norms: Sequence[str]) -> None:
    """The batch's statistics of `norms` -> the average of all batches'."""
    for norm in norms:
        prefix = f"{norm}." if norm else ""
        for key in (f"{prefix}running_mean", f"{prefix}running_var"):
            if key in new:
                share = 1 / new[f"{prefix}num_batches_tracked"].to(new[key].dtype)
                new[key] = old[key] * (1 - share) + new[key] * share
