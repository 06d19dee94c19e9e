"""The best plan for each of many budgets, over the cost that the state's axis names."""

from __future__ import annotations

from typing import Any

import param

from pockgraph.errors import PockError

from .info.costs import is_known
from .scheduling import Executor, run_now
from .state import AXES, State


class FrontierPlans(param.Parameterized):
    """Has the frontier computed when another study or axis is looked at; each axis once."""

    plans = param.List(default=[], doc="Of the state's axis; empty while they are searched.")
    problem = param.Parameter(doc="The PockError that says why there are none, or None.")

    def __init__(self, state: State, run: Executor = run_now) -> None:
        """Args:
        run: computes the frontier, as `State` takes it.
        """
        super().__init__()
        self._state, self._run = state, run
        state.param.watch(lambda _: self._ask(), ["facts", "axis"])
        self._ask()

    @property
    def axes(self) -> list[str]:
        """The costs that this study knows of plans."""
        return [key for key in AXES if is_known(key, self._state.facts.profile)] if self._state.ready else []

    def _ask(self) -> None:
        facts, key = self._state.facts, self._state.axis
        self.param.update(plans=[], problem=None)
        if not self._state.ready:
            return

        def then(answer: Any) -> None:
            if (self._state.facts, self._state.axis) != (facts, key):
                return  # another one was asked for meanwhile
            if isinstance(answer, PockError):
                self.problem = answer
            else:
                self.plans = answer

        self._run(lambda: facts.frontier(key), then)

    def take(self, index: int) -> None:
        """Make a plan of the list the current one, and what it needs the budget; no such plan: nothing."""
        if 0 <= index < len(self.plans):
            self._state.take_with_budget(self.plans[index], self._state.axis)
