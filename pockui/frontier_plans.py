"""The best plan for each of many budgets, over the cost that the state's axis names."""

from __future__ import annotations

from typing import Any

import param

from pockgraph.errors import PockError
from pockgraph.plan import Plan

from .facts import NOTHING_ASKED
from .info.costs import is_known
from .scheduling import Executor, Trailing, run_now
from .state import AXES, State


class FrontierPlans(param.Parameterized):
    """Has the frontier computed for what the state looks at, its locks and its rules; the same ones once."""

    plans = param.List(default=[], doc="Of the state's axis, locks and rules; empty while they are searched.")
    free = param.List(default=[], doc="Without locks and rules, where there are some; else empty.")
    problem = param.Parameter(doc="The PockError that says why there are none, or None.")

    def __init__(self, state: State, run: Executor = run_now) -> None:
        """Args:
        run: computes the frontier, as `State` takes it.
        """
        super().__init__()
        self._state, self._run = state, run
        self._shown: tuple[Any, ...] = ()  # study and axis of the plans that are there
        state.param.watch(lambda _: self._ask(), ["facts", "axis"])
        state.param.watch(Trailing(state.scheduler, self._ask), ["locked", "rules"])
        self._ask()

    @property
    def axes(self) -> list[str]:
        """The costs that this study knows of plans."""
        return [key for key in AXES if is_known(key, self._state.facts.profile)] if self._state.ready else []

    def _ask(self) -> None:
        facts, key, asked = self._state.facts, self._state.axis, self._state.asked
        shown = (facts.path, facts.device, key) if self._state.ready else ()
        if shown != self._shown:  # else those that are there stay until newer ones come
            self._shown = shown
            self.param.update(plans=[], free=[], problem=None)
        if not self._state.ready:
            return

        def compute() -> tuple[list[Plan], list[Plan]]:
            free = facts.frontier(key)
            return (free, []) if asked == NOTHING_ASKED else (facts.frontier(key, asked), free)

        def then(answer: Any) -> None:
            if (self._state.facts, self._state.axis, self._state.asked) != (facts, key, asked):
                return  # another one was asked for meanwhile
            if isinstance(answer, PockError):
                self.param.update(plans=[], free=[], problem=answer)
            else:
                plans, free = answer
                self.param.update(plans=plans, free=free, problem=None)

        self._run(compute, then)

    def take(self, index: int) -> None:
        """Make a plan of the list the current one, and what it needs the budget; no such plan: nothing."""
        if 0 <= index < len(self.plans):
            self._state.take_with_budget(self.plans[index], self._state.axis)
