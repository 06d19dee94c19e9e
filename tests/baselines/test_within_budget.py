"""The last biases, and LoRA, in as many layers as a budget allows."""

from __future__ import annotations

import pytest
import torch
from models import ZOO
from oracle import built

import pockgraph as pg
from pockgraph.baselines.low_rank import low_rank
from pockgraph.baselines.within_budget import last_biases
from pockgraph.errors import BudgetError, TaskError
from pockgraph.plan import presets
from pockgraph.profile.profiler import profile_of

OPTIMIZER = pg.SGD(lr=0.1, momentum=0.9)


@pytest.mark.parametrize("name", ["mobilenet", "bert", "mlp"])
def test_as_many_biases_as_fit_and_not_one_more(name: str) -> None:
    graph = built(name)
    profile, order = profile_of(graph), [t.fqn for t in presets.biases(graph)]
    for k in (0, 1, len(order) // 2, len(order)):
        peak = graph.prune(pg.Plan.last_k_biases(graph, k)).peak_bytes
        plan = last_biases(profile, pg.Budget(peak_bytes=peak))
        assert graph.prune(plan).peak_bytes <= peak
        chosen = set(plan.tensors) - set(profile.head)
        assert chosen == set(order[: len(chosen)])
        assert len(chosen) >= k
        if len(chosen) < len(order):
            more = pg.Plan.last_k_biases(graph, len(chosen) + 1)
            assert graph.prune(more).peak_bytes > peak


def test_biases_have_a_least_budget() -> None:
    with pytest.raises(BudgetError, match="Raise it"):
        last_biases(profile_of(built("mlp")), pg.Budget(peak_bytes=1))


def layers(task: pg.Task) -> list[str]:
    return [n for n, m in task.model.named_modules() if type(m) is torch.nn.Linear and n != "classifier"]


def test_adapters_come_from_the_output_and_keep_to_the_budget() -> None:
    task = ZOO["bert"]()
    names = layers(task)
    whole = pg.build(pg.lora(task, names, rank=1, trained="classifier.*"), OPTIMIZER)
    counts = []
    for share in (0.2, 0.5, 1.0):
        head = pg.Plan.of(whole, {"classifier.weight": 1, "classifier.bias": 1})
        least, most = whole.prune(head).peak_bytes, whole.peak_bytes
        budget = pg.Budget(peak_bytes=round(least + share * (most - least)))
        graph, plan = low_rank(task, OPTIMIZER, budget, names, rank=1)
        assert graph.prune(plan).peak_bytes <= (budget.peak_bytes or 0)
        adapted = [t for t in graph.tensors if "lora_" in t.fqn]
        counts.append(len(adapted))
        assert f"last {len(adapted) // 2} of {len(names)}" in plan.provenance["made_by"]
        depths = [whole.tensor(t.fqn).depth for t in adapted if t.fqn.endswith("lora_a.weight")]
        others = {t.depth for t in whole.tensors if t.fqn.endswith("lora_a.weight")} - set(depths)
        assert max(others, default=-1) < min(depths)
    assert counts == sorted(counts)
    assert counts[-1] == 2 * len(names)


def test_a_budget_without_room_for_an_adapter_is_refused() -> None:
    task = ZOO["bert"]()
    whole = pg.build(pg.lora(task, layers(task)), OPTIMIZER)
    least = min(whole.prune(pg.Plan.of(whole, {t.fqn: 1.0})).peak_bytes for t in whole.tensors)
    with pytest.raises(BudgetError):
        low_rank(task, OPTIMIZER, pg.Budget(peak_bytes=least - 1), layers(task))


def test_a_network_without_such_layers_is_refused() -> None:
    with pytest.raises(TaskError, match="no linear layer"):
        low_rank(ZOO["mobilenet"](), OPTIMIZER, pg.Budget())
