"""Parity of a step whose frozen matrices are rounded: with eager PyTorch computing with the rounded ones, and
beside it what the rounding costs, against PyTorch with the weights as they were."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from ..runtime.manifest import Manifest
from ..runtime.parity_record import ParityRecord, RoundingCost
from ..train_graph import TrainGraph
from .compiled_step import SEED, check_parity
from .eager_reference import Outcome, autograd
from .rounding import norm, typical

_in_turn = threading.RLock()  # else one thread takes another's rounded weights for the model's own


def check_rounded_parity(
    folder: Path, manifest: Manifest, graph: TrainGraph, force: bool, rounded: Mapping[str, Tensor]
) -> ParityRecord:
    """As `check_parity`.

    Args:
        graph: computes with rounded weights.
        rounded: these, FQN -> float32. The model of the graph's task has others, before and after.
    """
    with weights_in(graph.task.model, rounded):
        record = check_parity(folder, manifest, graph, force)
        found = autograd(graph.task, graph.plan, seed=SEED)
    exact = autograd(graph.task, graph.plan, seed=SEED)
    return record.model_copy(update={"frozen_weights": _cost(exact, found, rounded)})


@contextmanager
def weights_in(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """The model has other values of some parameters meanwhile; one thread at a time does this."""
    with _in_turn:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        before = {fqn: parameters[fqn].data for fqn in values}
        try:
            for fqn, value in values.items():
                parameters[fqn].data = value
            yield
        finally:
            for fqn, value in before.items():
                parameters[fqn].data = value


def _cost(exact: Outcome, found: Outcome, rounded: Mapping[str, Tensor]) -> RoundingCost:
    least = 1e-3 * typical(exact.gradients)
    off = {fqn: norm(found.gradients[fqn] - g) for fqn, g in exact.gradients.items()}
    size = {fqn: max(norm(g), least * math.sqrt(g.numel())) for fqn, g in exact.gradients.items()}
    share = {fqn: off[fqn] / size[fqn] if size[fqn] else 0.0 for fqn in off}
    worst = max(share, key=share.__getitem__)
    whole = math.hypot(*(norm(g) for g in exact.gradients.values()))
    return RoundingCost(
        tensors=len(rounded),
        elements=sum(v.numel() for v in rounded.values()),
        loss_deviation=_finite(abs(found.loss - exact.loss) / max(abs(exact.loss), 1e-2)),
        gradient_deviation=_finite(math.hypot(*off.values()) / whole if whole else 0.0),
        worst_gradient_deviation=_finite(share[worst]),
        worst_gradient=worst,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
