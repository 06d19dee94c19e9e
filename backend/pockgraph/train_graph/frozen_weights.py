"""The training graph of a plan whose frozen matrices are rounded to int8: see `passes.int8_weights`.

What is trained stays float32, and so do the frozen channels of what is trained in part. So does a matrix that
a graph reads in another way than multiplying by it or looking rows up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor

from ..errors import PockError
from ..ir.graph import Graph
from ..passes.int8_weights import frozen_matrices, rounded
from .train_graph import TrainGraph

G = TypeVar("G", bound=Graph)


def with_int8_weights(graph: TrainGraph) -> tuple[TrainGraph, dict[str, Tensor]]:
    """The graph with rounded matrices, and these: FQN -> float32.

    Args:
        graph: a plan's.

    Raises:
        PockError: the plan leaves no such matrix frozen.
    """
    fits: dict[str, bool] = {}
    for g in (graph, graph.evaluation(), *(p.graph for p in graph.prediction_graphs())):
        for name, ok in frozen_matrices(g).items():
            fits[name] = fits.get(name, True) and ok
    values = {**graph.metric.values, **graph.gradients.values}
    for p in graph.predictions:
        values = {**p.graph.values, **values}
    found = {name: value for name, ok in fits.items() if ok and (value := rounded(values[name])) is not None}
    if not found:
        raise PockError(
            f"The option frozen_weights='int8' has nothing to store in int8: the plan of task {graph.name!r} "
            "leaves no matrix of a linear layer or an embedding frozen (of more than 1,024 elements, and "
            "only multiplied by or looked up in). Leave the option out, or train fewer layers."
        )
    changed = replace(
        _with_values(graph, found),
        gradients=_with_values(graph.gradients, found),
        metric=_with_values(graph.metric, found),
        predictions=tuple(replace(p, graph=_with_values(p.graph, found)) for p in graph.predictions),
    )
    return changed, {name.removeprefix("param:"): value for name, value in found.items()}


def _with_values(graph: G, found: Mapping[str, Tensor]) -> G:
    values: Any = {name: found.get(name, value) for name, value in graph.values.items()}
    return replace(graph, values=values)
