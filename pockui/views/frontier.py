"""The best plan for every budget."""

from __future__ import annotations

import html
from functools import partial

import panel as pn
import panel_material_ui as pmui
import param

from pockgraph.search import Constraints

from ..bindings import frontier_edited, frontier_figure
from ..frontier_plans import FrontierPlans
from ..info.costs import COSTS
from ..scheduling import Trailing
from ..state import AXES, State
from . import parts

USE = "Click a point to take its plan, drag the line to move the budget. Shaded: too little for any plan."
TITLES = {key: COSTS[key].title for key in AXES}


class Frontier(pn.viewable.Viewer):
    """Gain against cost; a click takes a plan."""

    state = param.ClassSelector(class_=State)

    def __init__(self, state: State, frontier: FrontierPlans | None = None) -> None:
        super().__init__(state=state)
        self._frontier = frontier or FrontierPlans(state)
        self._figure = partial(frontier_figure, state, self._frontier)
        self._axis = pmui.RadioButtonGroup(
            options={TITLES[state.axis]: state.axis},
            value=state.axis,
            size="small",
            margin=0,
            sx={"& button": {"whiteSpace": "nowrap", "px": 1.25, "py": 0.25}},
        )
        self._chart = parts.chart(
            "Forecast against cost: best plans, well-known plans, and this plan", end_text="no limit"
        )
        self._chart.on_edit(partial(frontier_edited, state, self._frontier))
        self._note = parts.text()
        state.param.watch(
            Trailing(state.scheduler, self._show), ["prediction", "budget", "dark", "locked", "rules"]
        )
        state.param.watch(self._show_axis, ["facts", "axis"])
        self._frontier.param.watch(lambda *_: self._show(), ["plans", "problem"])
        self._axis.param.watch(lambda e: setattr(state, "axis", e.new), "value")
        self._show_axis()
        self._show()

    def _show_axis(self, *_: object) -> None:
        options = {TITLES[key]: key for key in self._frontier.axes or [self.state.axis]}
        self._axis.param.update(options=options, value=self.state.axis)

    def _show(self) -> None:
        figure = self._figure()
        if figure is None:
            return
        problem = self._frontier.problem
        hint = USE
        if self.state.asked != Constraints():
            hint += " The points keep to no lock and no rule; the plan searched for the budget does."
        if problem is not None:
            hint = html.escape(str(problem))
        elif not self._frontier.plans:
            hint = "Searching the best plan for each budget …"
        with pn.io.hold():
            self._chart.figure = figure
            self._note.object = f'<span class="hint">{hint}</span>'

    def __panel__(self) -> pn.viewable.Viewable:
        return parts.card(
            parts.heading("Frontier", "Forecast of the best plan for each budget, with its interval."),
            self._axis,
            self._chart,
            self._note,
        )
