"""A graph run by PyTorch, operator by operator: slow, and as plain as it can be."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from ..prng import step_keys
from .graph import Graph, Role


def interpret(
    graph: Graph, batch: Mapping[str, Tensor], lr: float = 0.0, *, seed: int = 0, step: int = 0
) -> dict[str, Tensor]:
    """Output slot name -> value, from the graph's own initial values.

    Args:
        batch: what a batch holds, by name.
        seed, step: which masks dropout draws, where there is any.
    """
    given = {
        Role.BATCH: lambda s: batch[s.fqn],
        Role.LR: lambda s: torch.tensor(lr),
        Role.SEED: lambda s: torch.from_numpy(step_keys(seed, step)),
    }
    inputs = [given.get(s.role, lambda s: graph.values[s.name])(s) for s in graph.inputs]
    with torch.no_grad():
        outputs = fx.Interpreter(nn.Module(), graph=graph.fx).run(*inputs)
    return {s.name: value for s, value in zip(graph.outputs, outputs, strict=True)}
