"""The judge refuses steps that are wrong on purpose; `benchmarks/judge_mutants.py` tries more of them."""

from __future__ import annotations

import pytest
from judging import mutant, right_step

QUICK = [
    ("mlp", "full", "momentum", "step", 0), ("mlp", "full", "adamw", "step", 2),
    ("mlp", "half", "everything", "step", 3), ("mlp", "full", "clip", "step", 5),
    ("batch_norms", "full", "momentum", "step", 4), ("batch_norms", "half", "adamw", "graph", 6),
]  # fmt: skip


@pytest.mark.parametrize(("model", "plan", "optimizer", "where", "first"), QUICK)
def test_wrong_steps_are_refused(model: str, plan: str, optimizer: str, where: str, first: int) -> None:
    import policies  # noqa: F401  (registers its tasks)

    judged = [
        found for seed in range(first, first + 4) if (found := mutant(model, plan, optimizer, where, seed))
    ]
    assert any(found.outcome == "refused" for found in judged)
    assert not [found for found in judged if found.outcome == "missed"]


def test_a_right_step_ships() -> None:
    assert right_step("mlp", "half", "adafactor", "torch") == ""
