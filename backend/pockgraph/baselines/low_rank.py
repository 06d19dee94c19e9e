"""LoRA within a budget: adapters in as many of the last layers as it allows."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import BudgetError
from ..globs import matches
from ..optimizer import Optimizer
from ..plan import Budget, Plan
from ..profile.memory_model import MemoryModel
from ..profile.profiler import profile_of
from ..task import Task
from ..task.lora import ADAPTERS, QUERY_AND_VALUE, lora
from ..train_graph import TrainGraph
from ..train_graph.builder import build
from .within_budget import fits, largest, within


def low_rank(
    task: Task,
    optimizer: Optimizer,
    budget: Budget,
    layers: str | Sequence[str] = QUERY_AND_VALUE,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    memory: MemoryModel | None = None,
) -> tuple[TrainGraph, Plan]:
    """The graph of a task with adapters, and the plan that trains all of them and the task's fresh tensors.

    The layers nearest to the output come first, since the way back to deeper ones is what costs.

    Args:
        layers, rank, alpha: as `pockgraph.lora` takes them.
        memory: of the network without adapters, for a budget of process memory.

    Raises:
        BudgetError: not even one adapter fits.
        TaskError: see `pockgraph.lora`.
    """
    graph = build(lora(task, layers, rank=rank, alpha=alpha), optimizer)
    profile = profile_of(graph).with_memory(memory)
    adapters = [t for t in graph.tensors if any(matches(t.fqn, p) for p in ADAPTERS)]
    depth: dict[str, int] = {}
    for tensor in adapters:
        layer = tensor.layer.rpartition(".")[0]
        depth[layer] = min(tensor.depth, depth.get(layer, tensor.depth))
    order = sorted(depth, key=lambda layer: -depth[layer])
    others = [t.fqn for t in graph.tensors if t not in adapters]

    def choice(n: int) -> dict[str, float]:
        near = set(order[:n])
        chosen = [t.fqn for t in adapters if t.layer.rpartition(".")[0] in near]
        return dict.fromkeys([*others, *chosen], 1.0)

    n = largest(len(order), lambda n: fits(profile, choice(n), budget))
    if not n:
        raise BudgetError(
            f"No adapter of rank {rank} fits within {within(budget)}. Raise it, or lower the rank."
        )
    if n < len(order):  # the other layers shall not compute with adapters that nobody trains
        graph = build(lora(task, order[:n], rank=rank, alpha=alpha), optimizer)
    plan = Plan.full(graph)
    made_by = f"LoRA of rank {rank} in the last {n} of {len(order)} layers, within {within(budget)}"
    return graph, plan.model_copy(update={"provenance": {"made_by": made_by}})
