"""(Profile, Contribution, Budget) -> Plan: the best plan a budget allows, solved exactly.

Given a forecaster, as a study has one, the best plan is that of the best forecast, trained plans counted:
its scores add up, and forecasts rise with them (`contribution/forecast.py`), so that the search stays exact.
Given a table of measured gains, it is the paper's: that of the largest sum of gains (arXiv 2310.17752,
section 3). Gains overlap, and the search favours those that noise made large.
"""

from __future__ import annotations

import math
import operator
import threading
import time
from collections.abc import Mapping
from typing import Literal

import numpy as np

from ..contribution import Contribution
from ..contribution.forecast import Forecaster
from ..errors import BudgetError, PlanError, require
from ..notebook_html import size_text, summary
from ..plan import Budget, Plan
from ..plan.budget import LIMITS
from ..profile import Profile
from .constraints import Constraints, Lock
from .evolution import Evolution
from .integer_program import IntegerProgram
from .lower_bound import best_lower_bound

__all__ = ["Budget", "Constraints", "Method", "Objective", "frontier", "search"]

MOST_PLANS = 1000  # of a frontier
Method = Literal["exact", "evolutionary"]
Objective = Literal["mean", "lower_bound"]


def search(
    profile: Profile,
    contribution: Contribution | Forecaster,
    budget: Budget,
    *,
    locked: Mapping[str, Lock] | None = None,
    constraints: Constraints | None = None,
    method: Method = "exact",
    seed: int = 0,
    objective: Objective = "mean",
) -> Plan:
    """The plan with the best forecast, or the largest sum of gains, within a budget.

    Args:
        profile: costs of every plan.
        contribution: `Study.forecaster`, or measured gains, which are added up as they are. Measured
            (tensor, ratio) pairs and bias counts are chosen; of a forecaster also those of its trained plans
            and of the preset, so that none of these is forecast above what is found.
        budget: upper limits.
        locked: pattern -> ratio that tensors are fixed at (0 or `"frozen"`: not trained), as
            `Constraints.locked`, and counting before it. The head is trained unless locked.
        constraints: what the plan must keep to beside the budget.
        method: `"exact"`, or `"evolutionary"`: the paper's genetic algorithm, for comparison. It takes
            seconds to minutes, and finds at best what the exact search does.
        seed: of the evolutionary search.
        objective: `"mean"`: the largest expected gain; or `"lower_bound"`: the largest gain that 19 of 20
            plans as uncertain would exceed, with the errors of tensors taken as independent. It needs a
            forecaster and the exact search, and takes several of them (see `lower_bound.py`).

    Raises:
        BudgetError: no plan fits; the message names the smallest budget that can be met.
        PlanError: a lock matches no tensor, `method` or `objective` is none of these, or pymoo is not
            installed.
    """
    require(BudgetError, "budget", budget, Budget, "Pass a Budget, such as Budget(peak_bytes=40_000_000).")
    asked = _asked(locked, constraints)
    if method not in ("exact", "evolutionary"):
        raise PlanError(
            f"A search is 'exact' or 'evolutionary', not {str(method)[:40]!r}. Pass one of the two."
        )
    if objective not in ("mean", "lower_bound"):
        raise PlanError(
            f"The objective is 'mean' or 'lower_bound', not {str(objective)[:40]!r}. Pass one of the two."
        )
    seed = _whole("seed", seed)
    if objective == "lower_bound":
        if not isinstance(contribution, Forecaster) or method != "exact":
            raise PlanError(
                "objective='lower_bound' needs what is not known of each gain, and the exact search: pass "
                "Study.forecaster as the contribution, and leave method out."
            )
        return best_lower_bound(profile, contribution, asked, budget)
    if method == "evolutionary":  # of its own: it takes a while, in which others ask about the same table
        return _evolved(IntegerProgram(profile, contribution, asked), budget, seed)
    program = _program(profile, contribution, asked)
    with program.lock:
        return program.solve(budget)


def _evolved(program: IntegerProgram, budget: Budget, seed: int) -> Plan:
    start = time.perf_counter()
    program.refuse_impossible(budget)
    ratios = Evolution(program.p, program.variables, budget, seed).best()
    if ratios is None:
        raise BudgetError(
            f"The evolutionary search found no plan that keeps to {budget} and the constraints. There may be "
            "one: try the exact search, or another seed."
        )
    solve_ms = (time.perf_counter() - start) * 1e3
    return program.plan(
        ratios, program.p.figures(ratios), budget, f"evolutionary search, seed {seed}", solve_ms
    )


class Frontier(list[Plan]):
    """Plans of rising cost.

    Attributes:
        by: the cost.
    """

    by = "peak_bytes"

    def _repr_html_(self) -> str:
        size = (lambda v: f"{v:.1f} ms") if self.by == "step_ms" else size_text
        known = [(plan, plan.predicted.get(self.by)) for plan in self]
        rows = [
            (
                "" if cost is None else size(cost),
                f"{plan.predicted['metric']:.4g}" if "metric" in plan.predicted else "",
                f"{len(plan.tensors)} of {len(plan.model)}",
            )
            for plan, cost in known
        ]
        values = [plan.predicted["gain"] for plan in self]
        title = f"{len(self)} plans by {self.by}"
        return summary(
            title, (self.by, "forecast", "tensors"), rows, values, "what they reach, cheapest first"
        )


def frontier(
    profile: Profile,
    contribution: Contribution | Forecaster,
    n: int = 20,
    by: str = "peak_bytes",
    *,
    locked: Mapping[str, Lock] | None = None,
    constraints: Constraints | None = None,
) -> Frontier:
    """Best plans for `n` budgets, from the smallest that can be met to where more no longer helps.

    Args:
        by: `"peak_bytes"`, `"extra_bytes"`, `"process_bytes"` or `"step_ms"`.
        locked, constraints: as for `search`.

    Returns:
        Plans of rising cost and rising gain; those that another one dominates are left out.
    """
    if by not in LIMITS:
        raise BudgetError(f"A frontier runs over {', '.join(LIMITS[:-1])} or {LIMITS[-1]}, not {by!r}.")
    require(BudgetError, "n", n, int, "Pass the number of plans, such as 20.")
    if not 1 <= n <= MOST_PLANS:
        raise BudgetError(f"n={str(n)[:40]} must be 1 to {MOST_PLANS} plans. Pass fewer, such as 20.")
    asked = _asked(locked, constraints)
    program = _program(profile, contribution, asked)
    with program.lock:
        least, best = program.smallest(by), program.solve(Budget())
    most = max(best.predicted[by], least)
    plans = Frontier()
    plans.by = by
    for value in np.linspace(least, most, max(n, 2)):
        limit = math.ceil(value) if by != "step_ms" else float(value) * (1 + 1e-9)
        try:
            with program.lock:
                plan = program.solve(Budget(**{by: limit}))  # pyright: ignore[reportArgumentType]
        except BudgetError:
            if plans or value == most or asked == Constraints():
                raise
            continue  # the constraints ask for more than the least that could be trained
        if not plans or plan.predicted["gain"] > plans[-1].predicted["gain"] + 1e-12:
            plans.append(plan)
    return plans


def _asked(locked: Mapping[str, Lock] | None, constraints: Constraints | None) -> Constraints:
    require(PlanError, "locked", locked or {}, Mapping, "Pass ratios by name, as in {'conv.weight': 0.5}.")
    for name, ratio in (locked or {}).items():
        words = ratio in ("frozen", "free")
        if isinstance(ratio, bool) or not (words or (isinstance(ratio, int | float) and 0 <= ratio <= 1)):
            raise PlanError(
                f"locked[{name!r}] is {str(ratio)[:40]!r}. Pass a ratio between 0 and 1, 'frozen' or 'free'."
            )
    asked = Constraints() if constraints is None else constraints
    require(PlanError, "constraints", asked, Constraints, "Pass Constraints(…), or leave it out.")
    return asked.with_locked(locked or {})


def _whole(name: str, value: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number < 2**32:
        raise PlanError(f"{name} is {str(value)[:40]!r}. Pass a whole number of 0 or more, below 2^32.")
    return number


# The peaks that one query found serve the next: a dragged budget is one solve, not several.
_LOCK = threading.Lock()  # of the list; queries of the same program wait for one another by its own
_last: list[IntegerProgram] = []


def _program(profile: Profile, contribution: Contribution | Forecaster, asked: Constraints) -> IntegerProgram:
    with _LOCK:
        for program in _last:
            if program.p is profile and program.gains is contribution and program.asked == asked:
                return program
        _last[:] = [*_last[-3:], IntegerProgram(profile, contribution, asked)]
        return _last[-1]
