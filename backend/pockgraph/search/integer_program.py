"""The mixed-integer program behind `search`: `plan_variables.py` within a budget.

A schedule has thousands of points, and few of them can be the peak. The program starts without
memory constraints; whenever its plan's exact peak (`Profile.figures`) is above the budget, the
constraint of that point is added and it is solved again. What is returned has been checked exactly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

from ..contribution import Contribution
from ..errors import BudgetError, PlanError, listing
from ..plan import Budget, Plan
from ..profile import Figures, Profile
from .constraints import Constraints
from .linear_solver import Constraint, Linear, minimize
from .memory_constraints import LinearMemory, SchedulePoint
from .plan_variables import PlanVariables
from .time_constraints import step_ms

MAX_ROUNDS = 60


class IntegerProgram:
    """The mixed-integer program of one (profile, contribution, constraints); peaks found accumulate."""

    def __init__(self, profile: Profile, contribution: Contribution, asked: Constraints) -> None:
        self.p, self.c, self.asked = profile, contribution, asked
        self.variables = PlanVariables(profile, contribution, asked.ratios(profile), asked)
        self.memory = LinearMemory(profile, self.variables)
        self._peak_bytes: dict[SchedulePoint, Linear] = {}
        self._least: Figures | None = None

    # ------------------------------------------------------------------ solving

    def solve(self, budget: Budget) -> Plan:
        """The optimum for one budget; the memory constraints found stay for the next.

        Raises:
            BudgetError: no plan fits, or the search did not settle.
        """
        start = time.perf_counter()
        self.refuse_impossible(budget)
        resident, state = self.memory.resident_bytes(), self.memory.state_bytes()
        limits: list[Constraint] = []
        if budget.step_ms is not None:
            assert self.p.time is not None
            limits.append(step_ms(self.p, self.p.time, self.variables, self.memory).at_most(budget.step_ms))
        if budget.extra_bytes is not None:
            limits.append((self.memory.saved_bytes() + state).at_most(budget.extra_bytes))
        refused: list[Constraint] = []
        for _ in range(MAX_ROUNDS):
            constraints = limits + refused
            if budget.peak_bytes is not None:
                room = budget.peak_bytes - self.p.resident_bytes
                constraints += [(live + resident + state).at_most(room) for live in self._peak_bytes.values()]
            values = self._optimum(constraints, budget)
            ratios = self.variables.ratios(values)
            figures = self.p.figures(ratios)
            over_peak = figures.peak_bytes - (budget.peak_bytes or math.inf)
            over_extra = figures.extra_bytes - (budget.extra_bytes or math.inf)
            over_ms = (figures.step_ms or 0.0) - (budget.step_ms or math.inf)
            if over_peak <= 0 and over_extra <= 0 and over_ms <= 0:
                return self.plan(ratios, figures, budget, "search", (time.perf_counter() - start) * 1e3)
            point = self.memory.peak_point(ratios)
            if over_peak > 0 and point not in self._peak_bytes:
                self._peak_bytes[point] = self.memory.live_bytes(point)
            else:  # within the solver's tolerance of a constraint, or where constraints say too little
                refused.append(self.variables.excluding(values))
        raise BudgetError(
            f"The search did not settle within {MAX_ROUNDS} rounds for {budget}. Allow a little more memory."
        )

    def _optimum(self, constraints: Sequence[Constraint], budget: Budget) -> list[float]:
        v = self.variables
        # Of plans with equal gain the one that reaches less deep, and trains less, is better.
        tie = 1e-7 * max((-c for c in v.cost), default=1.0)
        values = minimize([c + tie for c in v.cost], v.integer, v.lower, [*v.constraints, *constraints])
        if values is None:
            raise self._too_small(budget)
        return values

    def plan(
        self, ratios: Mapping[str, float], figures: Figures, budget: Budget, made_by: str, solve_ms: float
    ) -> Plan:
        """The plan file of a choice, with what it was asked for and what it costs and gains."""
        provenance = {"made_by": made_by, "budget": str(budget)}
        if self.asked != Constraints():
            provenance["constraints"] = self.asked.model_dump_json(exclude_defaults=True)
        plan = self.p.plan(ratios, provenance, figures)
        predicted = {**plan.predicted, "gain": self.c.predicted_gain(ratios), "solve_ms": solve_ms}
        return plan.model_copy(update={"predicted": predicted})

    # ------------------------------------------------------------------ limits

    def smallest(self, by: str) -> float:
        """The least any plan can cost: that of what is fixed, the head alone as a rule."""
        if not self.variables.fixed:
            raise PlanError(
                "Every tensor is locked out, the head too: nothing would be trained. Unlock one, or lock it "
                "above 0."
            )
        self._least = self._least or self.p.figures(self.variables.fixed)
        value = getattr(self._least, by)
        if value is None:
            raise BudgetError(
                "This profile holds no measured times, so nothing can be said about step_ms. Measure some "
                "(pockui analyze --time, or pockgraph.study.time_plans), or leave step_ms out."
            )
        return float(value)

    def refuse_impossible(self, budget: Budget) -> None:
        """
        Raises:
            BudgetError: what every plan trains costs more than the budget, or it limits what is not known.
        """
        if budget.step_ms is not None and self.p.time is None:
            raise BudgetError(
                "The budget limits step_ms, but this profile holds no measured times. Measure them with "
                "pockgraph.study.time_plans (pockui analyze --time), or leave step_ms out."
            )
        most, always = self.asked.max_tensors, len(self.variables.fixed)
        if most is not None and always > most:
            raise BudgetError(
                f"A plan of at most {most} tensors cannot be: {listing(list(self.variables.fixed), 4)} are "
                f"always trained, {always} tensors. Allow more, or lock some of them out."
            )
        for by in ("peak_bytes", "extra_bytes", "step_ms"):
            limit = getattr(budget, by)
            if limit is not None and limit < self.smallest(by):
                raise self._too_small(budget)

    def _too_small(self, budget: Budget) -> BudgetError:
        parts = []
        for by, unit, scale in (
            ("peak_bytes", "MB", 1e6),
            ("extra_bytes", "MB", 1e6),
            ("step_ms", "ms", 1.0),
        ):
            limit = getattr(budget, by)
            if limit is not None and limit < self.smallest(by):
                # Rounded up, so that the figure printed is itself a budget that can be met.
                least = math.ceil(self.smallest(by) / scale * 1000) / 1000
                parts.append(
                    f"{by} is {limit / scale:.3f} {unit}, the smallest feasible is {least:.3f} {unit}"
                )
        more = len(self.variables.fixed) > len(self.c.head or self.p.head)
        what = "what is locked in" if more else "the head alone"
        if not parts and self.asked != Constraints():
            return BudgetError(
                f"No plan meets the budget and the constraints together: {budget}, {self.asked}. Raise the "
                "budget, or leave a constraint out."
            )
        return BudgetError(
            f"No plan meets the budget: {'; '.join(parts) or 'its limits exclude each other'}. "
            f"That is what training {what} costs. Raise the budget, or make the batch or the input smaller."
        )
