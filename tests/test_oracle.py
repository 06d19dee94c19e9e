"""The oracle: it lets nothing pass but what rounding does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from oracle import assert_equal_steps, built, pruned, truth_of

import pockgraph as pg


@pytest.mark.parametrize(
    ("model", "optimizer"), [("mlp", "momentum"), ("mobilenet", "adamw"), ("transformer", "adafactor")]
)
def test_an_update_a_thousandth_too_long_is_wrong(model: str, optimizer: str) -> None:
    plan = pg.Plan.full(built(model, optimizer)).to_json()
    small, truth = pruned(model, optimizer, plan), truth_of(model, optimizer, plan)
    exact = truth.float32
    assert_equal_steps(exact, truth, small)
    for row in small.tensors[-4:]:
        initial = small.initial(row.fqn)
        longer = initial + (exact.weights[row.fqn] - initial) * 1.001
        wrong = replace(exact, weights=exact.weights | {row.fqn: longer})
        with pytest.raises(AssertionError, match=f"^{row.fqn}: off by"):
            assert_equal_steps(wrong, truth, small)


def test_what_a_last_bit_does_is_rounding() -> None:
    plan = pg.Plan.full(built("mobilenet", "adamw")).to_json()
    small, truth = pruned("mobilenet", "adamw", plan), truth_of("mobilenet", "adamw", plan)
    for run in truth.nudged:
        assert any((run.weights[fqn] != w).any() for fqn, w in truth.float32.weights.items())
        assert_equal_steps(run, truth, small)
