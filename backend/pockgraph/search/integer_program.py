"""The integer program behind `search`: `plan_variables.py` within a budget.

A schedule has thousands of points, and few of them can be the peak. The program starts without
memory constraints; whenever its plan's exact peak (`Profile.figures`) is above the budget, the
constraint of that point is added and it is solved again. What is returned has been checked exactly.

It is solved by cut depth where it can be (`cut_depths.py`), in milliseconds; else by HiGHS.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import time
from collections.abc import Mapping, Sequence

from ..contribution import Contribution
from ..contribution.forecast import Forecaster
from ..errors import BudgetError, PlanError, listing
from ..plan import Budget, Plan, presets
from ..profile import Figures, Profile
from .constraints import Constraints
from .cut_depths import CutDepths, NotSeparable
from .knapsack import TooManyStates
from .linear_cost_models import process_bytes, step_ms
from .linear_solver import Constraint, Linear, minimize
from .memory_constraints import LinearMemory, SchedulePoint
from .plan_amounts import PlanAmounts, plan_amounts
from .plan_variables import PlanVariables

MAX_ROUNDS = 60
PLANS_KEPT = 64  # of earlier budgets, as lower bounds for the next
FIGURES_KEPT = 4 * PLANS_KEPT
ROUNDED_BYTES = 2.0  # by how much the whole bytes of a process's four parts may be below their sum
LIMITED = {  # what a budget limits, as people call it
    "peak_bytes": "the modelled peak", "extra_bytes": "the memory for training",
    "process_bytes": "the memory of the process", "step_ms": "the time of a step",
}  # fmt: skip
# As a share of the largest gain: of equal plans the one that reaches less deep, and trains less, is better.
TIE = 1e-7
MEASURED = {"step_ms": "times", "process_bytes": "process memory"}  # what a limit is predicted from


class IntegerProgram:
    """The mixed-integer program of one (profile, contribution, constraints); peaks found accumulate.

    Attributes:
        lock: held by whoever solves it where others may, too.
    """

    def __init__(self, profile: Profile, gains: Contribution | Forecaster, asked: Constraints) -> None:
        """
        Args:
            gains: what is added up: measured gains, or a forecaster's scores. What plans of a forecaster
                were trained with, and what the preset trains, may be chosen then, too.
        """
        self.p, self.gains, self.asked = profile, gains, asked
        self.forecaster = gains if isinstance(gains, Forecaster) else None
        if isinstance(gains, Forecaster):
            known = [presets.preset(profile), *(plan.ratios for plan in gains.trained)]
            self.c = gains.scores.with_amounts_of(known)
        else:
            self.c = gains
        self.lock = threading.Lock()
        self.variables = PlanVariables(profile, self.c, asked.ratios(profile), asked)
        self.memory = LinearMemory(profile, self.variables)
        self._peak_bytes: dict[SchedulePoint, Linear] = {}
        self._least: Figures | None = None
        self._by_depth = not self.variables.rules
        self._depths: CutDepths | None = None
        self._found: list[tuple[float, list[float]]] = []  # the best plans of some budgets, with their gains
        self._known_figures: dict[frozenset[tuple[str, float]], Figures] = {}

    # ------------------------------------------------------------------ solving

    def solve(self, budget: Budget) -> Plan:
        """The best plan for one budget.

        Raises:
            BudgetError: no plan fits, or the search did not settle.
        """
        start = time.perf_counter()
        ratios, figures = self.optimum(budget)
        return self.plan(ratios, figures, budget, "search", (time.perf_counter() - start) * 1e3)

    def optimum(self, budget: Budget) -> tuple[dict[str, float], Figures]:
        """FQN -> ratio of the best plan, and its costs; memory constraints found stay for the next budget.

        Raises:
            BudgetError: no plan fits, or the search did not settle.
        """
        self.refuse_impossible(budget)
        refused: list[Constraint] = []
        for _ in range(MAX_ROUNDS):
            values = self._optimum(budget, refused)
            ratios = self.variables.ratios(values)
            figures = self._figures(ratios)
            over = _excess(figures, budget)
            if not over:
                return ratios, figures
            point = self.memory.peak_point(ratios)
            if "peak_bytes" in over and point not in self._peak_bytes:
                self._peak_bytes[point] = self.memory.live_bytes(point) + self._resident
            else:  # within the solver's tolerance of a constraint, or where constraints say too little
                refused.append(self.variables.excluding(values))
        raise BudgetError(
            f"The search did not settle within {MAX_ROUNDS} rounds for {budget}. Allow a little more memory."
        )

    def _figures(self, ratios: Mapping[str, float]) -> Figures:
        """Those of a plan; of the last few without computing them again."""
        key = frozenset(ratios.items())
        if key not in self._known_figures:
            if len(self._known_figures) >= FIGURES_KEPT:
                self._known_figures.pop(next(iter(self._known_figures)))
            self._known_figures[key] = self.p.figures(ratios)
        return self._known_figures[key]

    def _limited(self, budget: Budget) -> dict[str | SchedulePoint, tuple[Linear, float]]:
        """Linear expressions of a plan's costs, with what they may come to."""
        found: dict[str | SchedulePoint, tuple[Linear, float]] = {}
        if budget.peak_bytes is not None:
            room = budget.peak_bytes - self.p.resident_bytes
            found |= {point: (live, room) for point, live in self._peak_bytes.items()}
        if budget.extra_bytes is not None:
            found["extra_bytes"] = self._extra_bytes, budget.extra_bytes
        if budget.step_ms is not None:
            found["step_ms"] = self._step_ms, budget.step_ms
        if budget.process_bytes is not None:
            found["process_bytes"] = self._process_bytes, budget.process_bytes + ROUNDED_BYTES
        return found

    @functools.cached_property
    def _resident(self) -> Linear:
        return self.memory.resident_bytes() + self.memory.state_bytes()

    @functools.cached_property
    def _extra_bytes(self) -> Linear:
        return self.memory.saved_bytes() + self.memory.state_bytes()

    @functools.cached_property
    def _step_ms(self) -> Linear:
        assert self.p.time is not None
        return step_ms(self.p.time, self._amounts)

    @functools.cached_property
    def _process_bytes(self) -> Linear:
        assert self.p.memory is not None
        return process_bytes(self.p, self.p.memory, self.variables, self.memory, self._amounts)

    @functools.cached_property
    def _amounts(self) -> PlanAmounts:
        return plan_amounts(self.p, self.variables, self.memory)

    def _optimum(self, budget: Budget, refused: Sequence[Constraint]) -> list[float]:
        """Values of the variables, of the decisions at least."""
        v = self.variables
        limited = self._limited(budget)
        if not limited and not refused and not v.rules:
            return v.most_gain()
        if self._by_depth and not refused:
            with contextlib.suppress(NotSeparable, TooManyStates):
                return self._optimum_by_depth(limited, budget)
        constraints = [linear.at_most(room) for linear, room in limited.values()]
        values = minimize(
            [c + TIE for c in v.cost], v.integer, v.lower, [*v.constraints, *constraints, *refused]
        )
        if values is None:
            raise self._too_small(budget)
        return values

    def _optimum_by_depth(
        self, limited: Mapping[str | SchedulePoint, tuple[Linear, float]], budget: Budget
    ) -> list[float]:
        rows = {name: linear for name, (linear, _) in limited.items()}
        if self._depths is None or not rows.keys() <= set(self._depths.rows):
            known = dict(zip(self._depths.rows, self._depths.linear)) if self._depths else {}
            try:
                self._depths = CutDepths(self.variables, known | rows, TIE)
            except NotSeparable:
                self._by_depth = False
                raise
        room = [limited[name][1] if name in limited else math.inf for name in self._depths.rows]
        fits = [
            (gain, values)
            for gain, values in self._found
            if not _excess(self._figures(self.variables.ratios(values)), budget)
        ]
        best = max(fits, default=(-math.inf, None), key=lambda found: found[0])
        better = self._depths.best(room, best[0])
        if better is not None:
            self._found = [*self._found[1 - PLANS_KEPT :], better]
            return better[1]
        if best[1] is None:
            raise self._too_small(budget)
        return best[1]

    def plan(
        self, ratios: Mapping[str, float], figures: Figures, budget: Budget, made_by: str, solve_ms: float
    ) -> Plan:
        """The plan file of a choice, with what it was asked for and what it costs and gains."""
        provenance = {"made_by": made_by, "budget": str(budget)}
        if self.asked != Constraints():
            provenance["constraints"] = self.asked.model_dump_json(exclude_defaults=True)
        plan = self.p.plan(ratios, provenance, figures)
        total = self.c.predicted_gain(ratios)
        gain = self.forecaster.forecast(ratios).figures if self.forecaster else {"gain": total}
        predicted = {**plan.predicted, **gain, "solve_ms": solve_ms}
        return plan.model_copy(update={"predicted": predicted})

    # ------------------------------------------------------------------ limits

    def smallest(self, by: str) -> float:
        """The least any plan can cost: that of what is fixed, the head alone as a rule."""
        if not self.variables.fixed:
            what = "The head is locked out, and nothing is locked in"
            if not self.variables.choices:
                what = "The head is locked out, and nothing that gains is left"
            raise PlanError(
                f"{what}: a plan may train nothing then. Lock one tensor above 0, or unlock the head."
            )
        self._least = self._least or self._figures(self.variables.fixed)
        value = getattr(self._least, by)
        if value is None:
            raise BudgetError(
                f"This profile holds no measured {MEASURED[by]}, so nothing can be said about {LIMITED[by]}. "
                "Measure some plans (pockui device measure, or pockui analyze --time), or leave it out."
            )
        return float(value)

    def refuse_impossible(self, budget: Budget) -> None:
        """
        Raises:
            BudgetError: what every plan trains costs more than the budget, or it limits what is not known.
        """
        models = {"step_ms": self.p.time, "process_bytes": self.p.memory}
        for by in (by for by in budget.limits if by in models and models[by] is None):
            raise BudgetError(
                f"The budget limits {LIMITED[by]}, but this profile holds no measured {MEASURED[by]}. "
                "Measure some plans (pockui device measure, or pockui analyze --time), or leave it out."
            )
        most, always = self.asked.max_tensors, len(self.variables.fixed)
        if most is not None and always > most:
            raise BudgetError(
                f"A plan of at most {most} tensors cannot be: {listing(list(self.variables.fixed), 4)} are "
                f"always trained, {always} tensors. Allow more, or lock some of them out."
            )
        if any(limit < self.smallest(by) for by, limit in budget.limits.items()):
            raise self._too_small(budget)

    def _too_small(self, budget: Budget) -> BudgetError:
        parts = []
        for by, limit in budget.limits.items():
            if limit < self.smallest(by):
                unit, scale = ("ms", 1.0) if by == "step_ms" else ("MB", 1e6)
                # Rounded up, so that the figure printed is itself a budget that can be met.
                least = math.ceil(self.smallest(by) / scale * 1000) / 1000
                parts.append(
                    f"{LIMITED[by]} is limited to {limit / scale:.3f} {unit}, and the smallest feasible is "
                    f"{least:.3f} {unit}"
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


def _excess(figures: Figures, budget: Budget) -> list[str]:
    """The limits of a budget that a plan exceeds."""
    return [by for by, limit in budget.limits.items() if (getattr(figures, by) or 0.0) > limit]
