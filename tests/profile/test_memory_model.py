"""The memory of a process that trains: fitted to measured plans, in four parts that add up."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import built

from pockgraph.errors import PlanError
from pockgraph.measure import Memory
from pockgraph.profile import MeasuredPlan, MemoryModel, Profile
from pockgraph.profile.model_fits import fit_memory, fit_models, fit_time
from pockgraph.profile.profiler import profile_of
from pockgraph.study.measured_plans import fitting_choices, random_choices

PROFILE = profile_of(built("mobilenet", "momentum"))
PROBES = fitting_choices(PROFILE)
OTHERS = random_choices(PROFILE, 10, seed=5)
RUNTIME_BYTES = 10_000  # small beside this small network, so that all parts count
AMOUNTS = {id(choice): PROFILE.memory_amounts(choice) for choice in [*PROBES, *OTHERS]}


def measured(
    bytes_of: Callable[[int], float], choices: Sequence[dict[str, float]] = PROBES, target: str = "openvino"
) -> list[MeasuredPlan]:
    """Plans of which the i-th process holds `bytes_of(i)`."""
    return [
        MeasuredPlan(
            target=target, choice=dict(choice), step_ms=1.0 + i,
            memory=Memory(RUNTIME_BYTES, RUNTIME_BYTES, round(bytes_of(i)), round(bytes_of(i))),
        )
        for i, choice in enumerate(choices)
    ]  # fmt: skip


@settings(max_examples=8, deadline=None)
@given(
    st.floats(0, 500), st.floats(0, 4), st.floats(1, 4), st.floats(0, 1.5), st.floats(1, 3),
)  # fmt: skip
def test_a_fit_predicts_processes_that_are_linear_in_the_amounts(
    operator: float, backward: float, state: float, allocated: float, constants: float
) -> None:
    units = (operator, backward, state, allocated)
    fixed = RUNTIME_BYTES + constants * PROFILE.resident_bytes
    truth = lambda choice: fixed + float(np.dot(units, AMOUNTS[id(choice)]))  # noqa: E731
    model = fit_memory(PROFILE, measured(lambda i: truth(PROBES[i])), {"openvino": units})
    assert model is not None
    assert model.error_ratio < 0.02
    for choice in OTHERS:
        assert model.predict(AMOUNTS[id(choice)]).peak_bytes == pytest.approx(truth(choice), rel=0.02)


def test_constants_are_two_copies_at_most_and_what_is_beyond_is_the_runtimes() -> None:
    units = (100.0, 2.0, 1.5, 0.5)
    beyond = 50 * PROFILE.resident_bytes
    truth = lambda choice: beyond + float(np.dot(units, AMOUNTS[id(choice)]))  # noqa: E731
    model = fit_memory(PROFILE, measured(lambda i: truth(PROBES[i])), {"openvino": units})
    assert model is not None
    assert model.constant_bytes == pytest.approx(2 * PROFILE.resident_bytes)
    assert model.runtime_bytes > 0.9 * (beyond - 4 * PROFILE.resident_bytes)
    assert model.error_ratio < 0.02


def test_coefficients_are_learnt_where_networks_have_others_in_common() -> None:
    units = (100.0, 2.0, 1.5, 0.5)
    truth = lambda choice: 2 * PROFILE.resident_bytes + float(np.dot(units, AMOUNTS[id(choice)]))  # noqa: E731
    model = fit_memory(PROFILE, measured(lambda i: truth(PROBES[i])), {"openvino": (0.0, 0.5, 3.0, 0.1)})
    assert model is not None
    errors = [model.predict(AMOUNTS[id(choice)]).peak_bytes / truth(choice) - 1 for choice in OTHERS]
    assert np.quantile(np.abs(errors), 0.9) < 0.05


def test_the_error_is_that_of_plans_which_the_fit_has_not_seen() -> None:
    noise = np.random.default_rng(0).choice([-0.1, 0.1], len(PROBES))
    plans = measured(lambda i: 4 * PROFILE.figures(PROBES[i]).peak_bytes * (1 + noise[i]))
    model = fit_memory(PROFILE, plans)
    assert model is not None
    own = [model.predict(AMOUNTS[id(c)]).peak_bytes / p.memory.peak_bytes - 1
           for c, p in zip(PROBES, plans) if p.memory]  # fmt: skip
    assert model.error_ratio > np.quantile(np.abs(own), 0.9)
    assert model.error_ratio > 0.08


def test_four_parts_add_up_to_the_peak_of_the_figures() -> None:
    model = MemoryModel("openvino", 6e7, 1e6, 2e5, (1e4, 1.5, 1.25, 0.3), 0.05, 12)
    profile = PROFILE.with_memory(model)
    for choice in OTHERS:
        account = profile.process_memory(choice)
        assert account is not None
        assert list(account.parts()) == ["runtime", "constants", "state", "activations"]
        assert sum(account.parts().values()) == account.peak_bytes == profile.figures(choice).process_bytes
        amounts = profile.memory_amounts(choice)
        assert account.state == round(1.25 * amounts.state_bytes)
    head, full = profile.process_memory(PROBES[0]), profile.process_memory(PROBES[1])
    assert head is not None
    assert full is not None
    assert all(full.parts()[part] > head.parts()[part] for part in head.parts())


def test_nothing_is_said_of_process_memory_before_it_was_measured() -> None:
    assert PROFILE.figures(PROBES[0]).process_bytes is None
    assert PROFILE.process_memory(PROBES[0]) is None
    plans = [plan.model_copy(update={"memory": None}) for plan in measured(lambda _: 1e6)]
    fitted = fit_models(PROFILE, plans)
    assert fitted.memory is None
    assert fitted.time is not None


def test_a_model_travels_with_its_profile_and_older_profiles_have_none() -> None:
    model = fit_memory(PROFILE, measured(lambda i: 1e6 + 3 * PROFILE.figures(PROBES[i]).peak_bytes))
    profile = PROFILE.with_memory(model)
    assert Profile.from_json(profile.to_json()) == profile
    data = json.loads(PROFILE.to_json())
    del data["memory"]
    assert Profile.from_json(json.dumps(data)) == PROFILE
    assert model is not None
    for change in ({"bytes_per_unit": (1.0, 2.0)}, {"runtime_bytes": -1.0}, {"error_ratio": float("nan")}):
        damaged = PROFILE.with_memory(dataclasses.replace(model, **change)).to_json()
        with pytest.raises(PlanError, match="memory model"):
            Profile.from_json(damaged)


def test_plans_of_two_targets_or_of_one_alone_are_refused() -> None:
    plans = measured(lambda _: 1e6)
    for fit in (fit_time, fit_memory):
        with pytest.raises(PlanError, match="onnx and openvino"):
            fit(PROFILE, [*plans, *measured(lambda _: 1e6, target="onnx")])
        with pytest.raises(PlanError, match="two measured plans"):
            fit(PROFILE, plans[:1])
