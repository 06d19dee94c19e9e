"""The search's linear expressions of time and process memory give what a plan is predicted to take."""

from __future__ import annotations

import random

import pytest
from models import ZOO
from oracle import built
from test_memory_constraints import everything, least

from pockgraph.plan import Budget
from pockgraph.profile import MemoryModel, Profile, TimeModel
from pockgraph.profile.profiler import profile_of
from pockgraph.search import search
from pockgraph.search.linear_cost_models import process_bytes, step_ms
from pockgraph.search.memory_constraints import LinearMemory
from pockgraph.search.plan_amounts import plan_amounts
from pockgraph.search.plan_variables import PlanVariables

# Every kind of work takes a time of its own.
TIME = TimeModel("openvino", 1.0, (3e-6, 5e-6, 4e-6, 9e-6, 2e-7, 1e-6), 0.01, 5)
# Small beside what these small networks need, so that all parts count.
MEMORY = MemoryModel("openvino", 1e4, 1e4, 1e3, (100.0, 1.5, 1.25, 0.3), 0.05, 12)
PLANS = 6
# What chains that serve several tensors select, when they serve one in a plan.
SELECTED_RATIO = 0.01


def fitted(model: str) -> Profile:
    return profile_of(built(model, "adamw")).with_time(TIME).with_memory(MEMORY)


@pytest.mark.parametrize("model", ["mobilenet", "resnet", "transformer", "unet"])
def test_linear_time_and_memory_equal_the_predictions_for_the_plan(model: str) -> None:
    profile = fitted(model)
    variables = PlanVariables(profile, everything(built(model)), {})
    first, exclusive = list(variables.lower), [list(terms) for terms, _ in variables.constraints]
    memory = LinearMemory(profile, variables)
    amounts = plan_amounts(profile, variables, memory)
    time, process = step_ms(TIME, amounts), process_bytes(profile, MEMORY, variables, memory, amounts)
    rng = random.Random(model)
    for _ in range(PLANS):
        decided = list(first)
        for one in exclusive:
            if rng.random() < 0.4:
                decided[rng.choice(one)] = 1.0
        predicted = profile.figures(variables.ratios(decided))
        assert least(time, variables, decided) == pytest.approx(predicted.step_ms, rel=SELECTED_RATIO)
        assert least(process, variables, decided) == pytest.approx(
            predicted.process_bytes, rel=SELECTED_RATIO
        )


@pytest.mark.parametrize("model", ZOO)
def test_a_plan_keeps_within_its_time(model: str) -> None:
    profile, table = fitted(model), everything(built(model))
    least_ms = profile.figures(dict.fromkeys(table.head, 1.0)).step_ms
    most_ms = profile.figures({tensor.fqn: 1.0 for tensor in profile.tensors}).step_ms
    assert least_ms is not None
    assert most_ms is not None
    for share in (0.1, 0.5, 0.8):
        budget = least_ms + share * (most_ms - least_ms)
        assert search(profile, table, Budget(step_ms=budget)).predicted["step_ms"] <= budget


@pytest.mark.parametrize("model", ZOO)
def test_a_plan_keeps_within_its_process_memory(model: str) -> None:
    profile, table = fitted(model), everything(built(model))
    low = profile.figures(dict.fromkeys(table.head, 1.0)).process_bytes
    high = profile.figures({tensor.fqn: 1.0 for tensor in profile.tensors}).process_bytes
    assert low is not None
    assert high is not None
    for share in (0.1, 0.5, 0.8):
        budget = round(low + share * (high - low))
        plan = search(profile, table, Budget(process_bytes=budget))
        assert profile.figures(profile.ratios_of(plan)).process_bytes <= budget
        assert plan.predicted["process_bytes"] <= budget
