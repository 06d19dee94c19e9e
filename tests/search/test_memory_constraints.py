"""The search's linear expressions of a plan's memory give the bytes that the plan costs."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from models import ZOO
from oracle import built

from pockgraph.contribution import Contribution, Gain
from pockgraph.plan import presets
from pockgraph.profile.profiler import profile_of
from pockgraph.search.linear_solver import Linear, minimize
from pockgraph.search.memory_constraints import LinearMemory
from pockgraph.search.plan_variables import PlanVariables
from pockgraph.train_graph import TrainGraph

PLANS = 10
STATISTICS_RATIO = 0.005


def everything(graph: TrainGraph) -> Contribution:
    """Gains of all tensors at several ratios, so that any plan of them can be decided."""
    head = tuple(presets.head(graph))
    sliceable = [r.fqn for r in graph.tensors if r.kind == "weight" and r.channel_dim is not None]
    gains = {ratio: Gain(ratio, 0.0, 3) for ratio in (0.25, 0.5, 1.0)}
    order = tuple(r.fqn for r in presets.biases(graph))
    counts = {k: Gain(0.1 * k, 0.0, 3) for k in {1, 2, len(order)} if 0 < k <= len(order)}
    weights = {fqn: gains for fqn in sliceable if fqn not in head}
    return Contribution(Gain(0.5, 0.0, 3), weights, counts, order, head)


def least(amount: Linear, variables: PlanVariables, decided: Sequence[float]) -> float:
    """An amount where the decisions are as given, and the variables that follow as small as they may be."""
    cost = [amount.terms.get(v, 0.0) for v in range(len(variables.cost))]
    fixed = [({v: 1.0}, 0.0) for v, value in enumerate(decided) if not value]
    lower = [
        max(a, b) for a, b in zip(variables.lower, [*decided, *[0.0] * (len(variables.lower) - len(decided))])
    ]
    values = minimize(cost, variables.integer, lower, [*variables.constraints, *fixed])
    assert values is not None
    return amount.constant + sum(c * v for c, v in zip(cost, values, strict=True))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "everything"])
@pytest.mark.parametrize("model", ZOO)
def test_linear_memory_equals_the_figures_of_the_plan(model: str, optimizer: str) -> None:
    graph = built(model, optimizer)
    profile = profile_of(graph)
    variables = PlanVariables(profile, everything(graph), {})
    first = list(variables.lower)
    exclusive = [list(terms) for terms, _ in variables.constraints]
    memory, rng = LinearMemory(profile, variables), random.Random(f"{model} {optimizer}")
    for _ in range(PLANS):
        decided = list(first)
        for one in exclusive:
            if rng.random() < 0.4:
                decided[rng.choice(one)] = 1.0
        ratios = variables.ratios(decided)
        figures = profile.figures(ratios)
        live = memory.live_bytes(memory.peak_point(ratios)) + memory.resident_bytes() + memory.state_bytes()
        for figure, linear in (
            (figures.peak_bytes - profile.resident_bytes, least(live, variables, decided)),
            (figures.extra_bytes, least(memory.saved_bytes() + memory.state_bytes(), variables, decided)),
        ):
            # More would rule plans out that fit. Less costs a round of the search: what a chain that serves
            # several tensors selects of a batch norm's statistics, when it serves one in this plan.
            assert figure * (1 - STATISTICS_RATIO) - 1e-6 <= linear <= figure + 1e-6, ratios
