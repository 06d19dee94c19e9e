"""The best plan for every budget."""

from __future__ import annotations

import html
from typing import Any

import panel as pn
import panel_material_ui as pmui
import param

from pockgraph.errors import PockError
from pockgraph.plan import Plan

from ..components import answer
from ..info import charts
from ..info.costs import COSTS, is_known
from ..info.frontier import frontier_info
from ..info.palette import palette
from ..state import Executor, State, run_now
from . import parts

AXES = {
    COSTS[key].title: key for key in ("peak_bytes", "process_bytes", "step_ms", "extra_bytes")
}  # label -> cost


class Frontier(pn.viewable.Viewer):
    """Gain against cost; a click takes a plan."""

    state = param.ClassSelector(class_=State)

    def __init__(self, state: State, run: Executor = run_now) -> None:
        """Args:
        run: computes the frontier, as `State` takes it.
        """
        super().__init__(state=state)
        self._run = run
        self._plans: dict[str, list[Plan]] = {}
        self._axis = pmui.RadioButtonGroup(
            options=[next(iter(AXES))],
            value=next(iter(AXES)),
            size="small",
            margin=0,
            sx={"& button": {"whiteSpace": "nowrap", "px": 1.25, "py": 0.25}},
        )
        self._chart = parts.chart("Forecast against cost: best plans, well-known plans, and this plan")
        answer(self._chart, lambda edit: self._clicked(edit["index"]))
        self._note = parts.text()
        redraw = parts.Trailing(self._show)
        state.param.watch(redraw, ["prediction", "budget", "dark"])
        state.param.watch(self._start, "facts")
        self._axis.param.watch(lambda _: self._ask(), "value")
        self._start()

    def _start(self, *_: object) -> None:
        self._plans = {}
        if self.state.ready:
            profile = self.state.facts.profile
            self._axis.options = [a for a, key in AXES.items() if is_known(key, profile)]
            self._ask()

    def _ask(self) -> None:
        """Have the frontier of the shown axis computed, once."""
        facts, key = self.state.facts, AXES[self._axis.value]
        if key in self._plans:
            self._show()
            return
        self._note.object = '<span class="hint">Searching the best plan for each budget …</span>'

        def then(answer: Any) -> None:
            if self.state.facts is not facts:
                return
            if isinstance(answer, PockError):
                self._note.object = f'<span class="hint">{html.escape(str(answer))}</span>'
                return
            self._plans = {**self._plans, key: answer}
            self._show()

        self._run(lambda: facts.frontier(key), then)
        self._show()

    def _show(self) -> None:
        s = self.state
        if not s.ready:
            return
        key = AXES[self._axis.value]
        plans = self._plans.get(key, [])
        info = frontier_info(plans, s.facts.known_plans, s.prediction, s.budget, COSTS[key], s.facts.metric)
        with pn.io.hold():
            self._chart.figure = charts.frontier_chart(info, palette(s.dark))
            if plans:
                hint = "Click a point to take its plan. Shaded: too little for any plan."
                self._note.object = f'<span class="hint">{hint}</span>'

    def _clicked(self, index: int) -> None:
        key = AXES[self._axis.value]
        plans = self._plans.get(key, [])
        if 0 <= index < len(plans):
            self.state.take_with_budget(plans[index], key)

    def __panel__(self) -> pn.viewable.Viewable:
        return parts.card(
            parts.heading("Frontier", "Forecast of the best plan for each budget, with its interval."),
            self._axis,
            self._chart,
            self._note,
        )
