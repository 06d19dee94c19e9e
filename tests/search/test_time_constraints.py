"""The search's linear expression of a step's time gives what the plan is predicted to take."""

from __future__ import annotations

import random

import pytest
from models import ZOO
from oracle import built
from test_memory_constraints import everything, least

from pockgraph.plan import Budget
from pockgraph.profile import Profile, TimeModel
from pockgraph.profile.profiler import profile_of
from pockgraph.search import search
from pockgraph.search.memory_constraints import LinearMemory
from pockgraph.search.plan_variables import PlanVariables
from pockgraph.search.time_constraints import step_ms

# Every kind of work takes a time of its own.
TIME = TimeModel("openvino", 1.0, (3e-6, 5e-6, 4e-6, 9e-6, 2e-7, 1e-6), 0.01, 5)
PLANS = 6
# What chains that serve several tensors select, when they serve one in a plan.
SELECTED_RATIO = 0.01


def timed(model: str) -> Profile:
    return profile_of(built(model, "adamw")).with_time(TIME)


@pytest.mark.parametrize("model", ["mobilenet", "resnet", "transformer", "unet"])
def test_linear_time_equals_the_prediction_for_the_plan(model: str) -> None:
    profile = timed(model)
    variables = PlanVariables(profile, everything(built(model)), {})
    first, exclusive = list(variables.lower), [list(terms) for terms, _ in variables.constraints]
    time = step_ms(profile, TIME, variables, LinearMemory(profile, variables))
    rng = random.Random(model)
    for _ in range(PLANS):
        decided = list(first)
        for one in exclusive:
            if rng.random() < 0.4:
                decided[rng.choice(one)] = 1.0
        predicted = profile.figures(variables.ratios(decided)).step_ms
        assert least(time, variables, decided) == pytest.approx(predicted, rel=SELECTED_RATIO)


@pytest.mark.parametrize("model", ZOO)
def test_a_plan_keeps_within_its_time(model: str) -> None:
    profile, table = timed(model), everything(built(model))
    least_ms = profile.figures(dict.fromkeys(table.head, 1.0)).step_ms
    most_ms = profile.figures({tensor.fqn: 1.0 for tensor in profile.tensors}).step_ms
    assert least_ms is not None
    assert most_ms is not None
    for share in (0.1, 0.5, 0.8):
        budget = least_ms + share * (most_ms - least_ms)
        assert search(profile, table, Budget(step_ms=budget)).predicted["step_ms"] <= budget
