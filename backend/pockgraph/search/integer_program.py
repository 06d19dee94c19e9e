"""The mixed-integer programme behind `search`: `plan_variables.py` within a budget.

A schedule has thousands of moments, and few of them can be the peak. The programme starts without
memory constraints; whenever its plan's exact peak (`Profile.figures`) is above the budget, the
constraint of that moment is added and it is solved again. What is returned has been checked exactly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

from ..contribution import Contribution
from ..errors import BudgetError, PlanError
from ..plan import Budget, Plan
from ..profile import Profile
from ..profile.operator_cost import WORK_KINDS
from .linear_solver import Linear, Row, minimise
from .memory_constraints import Moment, Moments
from .plan_variables import Decisions

MAX_ROUNDS = 60


class Programme:
    """The mixed-integer programme of one (profile, contribution, locks); constraints accumulate."""

    def __init__(self, profile: Profile, contribution: Contribution, locked: Mapping[str, float]) -> None:
        self.p, self.c = profile, contribution
        self.decisions = Decisions(profile, contribution, locked)
        self.moments = Moments(profile, self.decisions)
        self._peaks: dict[Moment, Linear] = {}

    # ------------------------------------------------------------------ solving

    def solve(self, budget: Budget) -> Plan:
        """The optimum for one budget; the memory constraints found stay for the next.

        Raises:
            BudgetError: no plan fits, or the search did not settle.
        """
        start = time.perf_counter()
        if budget.step_ms is not None and self.p.time is None:
            raise BudgetError(
                "The budget limits step_ms, but this profile holds no measured times. Measure them with "
                "pockgraph.study.time_plans (pockui analyze --time), or leave step_ms out."
            )
        self._refuse_impossible(budget)
        resident, state = self.moments.resident(), self.moments.state()
        limits: list[Row] = []
        if budget.step_ms is not None:
            limits.append(self._step_ms().at_most(budget.step_ms))
        if budget.extra_bytes is not None:
            limits.append((self.moments.saved() + state).at_most(budget.extra_bytes))
        refused: list[Row] = []
        for _ in range(MAX_ROUNDS):
            rows = limits + refused
            if budget.peak_bytes is not None:
                room = budget.peak_bytes - self.p.resident_bytes
                rows += [(live + resident + state).at_most(room) for live in self._peaks.values()]
            values = self._optimum(rows, budget)
            choice = self.decisions.choice(values)
            figures = self.p.figures(choice)
            over_peak = figures.peak_bytes - (budget.peak_bytes or math.inf)
            over_extra = figures.extra_bytes - (budget.extra_bytes or math.inf)
            if over_peak <= 0 and over_extra <= 0:
                return self._plan(choice, budget, (time.perf_counter() - start) * 1e3)
            moment = self.moments.of_peak(choice)
            if over_peak > 0 and moment not in self._peaks:
                self._peaks[moment] = self.moments.live(moment)
            else:  # within the solver's tolerance of a row, or where rows say too little
                refused.append(self.decisions.all_but(values))
        raise BudgetError(
            f"The search did not settle within {MAX_ROUNDS} rounds for {budget}. Allow a little more memory."
        )

    def _optimum(self, rows: Sequence[Row], budget: Budget) -> list[float]:
        d = self.decisions
        # Of plans with equal gain the one that reaches less deep, and trains less, is better.
        tie = 1e-7 * max((-c for c in d.cost), default=1.0)
        values = minimise([c + tie for c in d.cost], d.integer, d.lower, [*d.rows, *rows])
        if values is None:
            raise self._too_small(budget)
        return values

    def _plan(self, choice: Mapping[str, float], budget: Budget, solve_ms: float) -> Plan:
        plan = self.p.plan(choice, {"made_by": "search", "budget": str(budget)})
        figures = {**plan.predicted, "gain": self.decisions.gain(choice), "solve_ms": solve_ms}
        return plan.model_copy(update={"predicted": figures})

    # ------------------------------------------------------------------ time

    def _step_ms(self) -> Linear:
        """The predicted time of a step."""
        assert self.p.time is not None
        total = Linear(constant=self.p.time.overhead_ms)
        for weight, amount in zip(self.p.time.ms_per_unit, self._work(), strict=True):
            total.constant += weight * amount.constant
            for literal, work in amount.terms.items():
                total.add(literal, weight * work)
        return total

    def _work(self) -> list[Linear]:
        """Work of each kind."""
        amounts = [Linear() for _ in WORK_KINDS]
        grouped: dict[tuple[int, int], tuple[float, float]] = {}
        for o in self.p.operators:
            key = o.kind, 0 if o.needed else o.serves
            work, fixed = grouped.get(key, (0.0, 0.0))
            grouped[key] = work + o.work, fixed + o.fixed_work
        for (kind, serves), (work, fixed) in grouped.items():
            if serves and serves & (serves - 1) == 0:  # one row alone: what is left of it is a part's
                for share, literal in self.decisions.ways_of(serves.bit_length() - 1):
                    amounts[kind].add(literal, fixed + (work - fixed) * share)
            else:
                amounts[kind].add(self.decisions.reached(serves) if serves else None, work)
        return amounts

    # ------------------------------------------------------------------ limits

    def smallest(self, by: str) -> float:
        """The least any plan can cost: that of what is fixed, the head alone as a rule."""
        if not self.decisions.fixed:
            raise PlanError(
                "Every tensor is locked out, the head too: nothing would be trained. Unlock one, or lock it "
                "above 0."
            )
        value = getattr(self.p.figures(self.decisions.fixed), by)
        if value is None:
            raise BudgetError(
                "This profile holds no measured times, so nothing can be said about step_ms. Measure some "
                "(pockui analyze --time, or pockgraph.study.time_plans), or leave step_ms out."
            )
        return float(value)

    def _refuse_impossible(self, budget: Budget) -> None:
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
        more = len(self.decisions.fixed) > len(self.c.head or self.p.head)
        what = "what is locked in" if more else "the head alone"
        return BudgetError(
            f"No plan meets the budget: {'; '.join(parts) or 'its limits exclude each other'}. "
            f"That is what training {what} costs. Raise the budget, or make the batch or the input smaller."
        )
