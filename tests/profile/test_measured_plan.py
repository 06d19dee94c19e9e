"""What a plan's step took on a target, as a value that files hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pockgraph.errors import PlanError
from pockgraph.measure import Memory
from pockgraph.plan import Trained
from pockgraph.profile import MeasuredPlan

MEMORY = Memory(imported_bytes=60_000_000, loaded_bytes=80_000_000, peak_bytes=95_000_000,
                whole_peak_bytes=110_000_000)  # fmt: skip


def test_it_is_the_same_after_json() -> None:
    choice = {"head.weight": 1.0, "body.weight": Trained(dim=1, channels=(0, 3))}
    for memory in (MEMORY, None):
        measured = MeasuredPlan(target="openvino", choice=choice, step_ms=3.5, memory=memory)
        assert MeasuredPlan.model_validate_json(measured.model_dump_json()) == measured


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step_ms", 0.0),
        ("step_ms", float("nan")),
        ("choice", {"a": 1.5}),
        ("choice", {"a": 0}),
        ("target", ""),
        ("memory", replace(MEMORY, loaded_bytes=0)),
    ],
)
def test_a_figure_that_cannot_be_is_refused_by_name(field: str, value: Any) -> None:
    fields: dict[str, Any] = {"target": "onnx", "choice": {"a": 1.0}, "step_ms": 2.0, field: value}
    with pytest.raises(PlanError, match=field):
        MeasuredPlan(**fields)
