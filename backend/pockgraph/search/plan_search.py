"""(Profile, Contribution, Budget) -> Plan: the best plan a budget allows, solved exactly.

The objective is the paper's additive one: the sum of the measured gains (arXiv 2310.17752, section 3).
It ranks plans; it is no forecast of the metric, because gains measured one at a time overlap.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

import numpy as np

from ..contribution import Contribution
from ..errors import BudgetError, PlanError, require
from ..plan import Budget, Plan
from ..profile import Profile
from .integer_program import IntegerProgram

__all__ = ["Budget", "frontier", "search"]


def search(
    profile: Profile,
    contribution: Contribution,
    budget: Budget,
    *,
    locked: Mapping[str, float] | None = None,
) -> Plan:
    """The plan with the largest sum of gains within a budget.

    Args:
        profile: costs of every plan.
        contribution: measured gains; only measured (tensor, ratio) pairs and bias counts are chosen.
        budget: upper limits.
        locked: FQN -> ratio a tensor is fixed at; 0 keeps it frozen. The head is trained unless locked.

    Raises:
        BudgetError: no plan fits; the message names the smallest budget that can be met.
        PlanError: `locked` names an unknown tensor.
    """
    require(BudgetError, "budget", budget, Budget, "Pass a Budget, such as Budget(peak_bytes=40_000_000).")
    _check_locked(locked)
    with _LOCK:
        return _program(profile, contribution, locked or {}).solve(budget)


def frontier(
    profile: Profile,
    contribution: Contribution,
    n: int = 20,
    by: str = "peak_bytes",
    *,
    locked: Mapping[str, float] | None = None,
) -> list[Plan]:
    """Best plans for `n` budgets, from the smallest that can be met to where more no longer helps.

    Args:
        by: `"peak_bytes"`, `"extra_bytes"` or `"step_ms"`.

    Returns:
        Plans of rising cost and rising gain; those that another one dominates are left out.
    """
    if by not in ("peak_bytes", "extra_bytes", "step_ms"):
        raise BudgetError(f"A frontier runs over peak_bytes, extra_bytes or step_ms, not {by!r}.")
    require(BudgetError, "n", n, int, "Pass the number of plans, such as 20.")
    _check_locked(locked)
    with _LOCK:
        program = _program(profile, contribution, locked or {})
        least, most = program.smallest(by), program.solve(Budget()).predicted[by]
    plans: list[Plan] = []
    for value in np.linspace(least, max(most, least), max(n, 2)):
        limit = math.ceil(value) if by != "step_ms" else float(value) * (1 + 1e-9)
        with _LOCK:
            plan = program.solve(Budget(**{by: limit}))  # pyright: ignore[reportArgumentType]
        if not plans or plan.predicted["gain"] > plans[-1].predicted["gain"] + 1e-12:
            plans.append(plan)
    return plans


def _check_locked(locked: Mapping[str, float] | None) -> None:
    require(PlanError, "locked", locked or {}, Mapping, "Pass ratios by name, as in {'conv.weight': 0.5}.")
    for name, ratio in (locked or {}).items():
        require(PlanError, f"locked[{name!r}]", ratio, (int, float), "Pass a ratio between 0 and 1.")


# The constraints that one query found serve the next: a dragged budget is one solve, not several.
_LOCK = threading.Lock()
_last: list[tuple[Profile, Contribution, dict[str, float], IntegerProgram]] = []


def _program(profile: Profile, contribution: Contribution, locked: Mapping[str, float]) -> IntegerProgram:
    for p, c, fixed, program in _last:
        if p is profile and c is contribution and fixed == dict(locked):
            return program
    _last[:] = [
        *_last[-3:],
        (profile, contribution, dict(locked), IntegerProgram(profile, contribution, locked)),
    ]
    return _last[-1][3]
