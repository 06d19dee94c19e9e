"""The best plan for every budget."""

from __future__ import annotations

import html
from functools import partial

import panel as pn
import panel_material_ui as pmui
import param

from ..bindings import frontier_edited, frontier_figure, frontier_note
from ..frontier_plans import FrontierPlans
from ..info.costs import COSTS
from ..info.verification import VERIFY
from ..scheduling import Trailing
from ..state import AXES, State
from ..verifying import Verifying
from . import parts

USE = "Click a point to take its plan, drag the line to move the budget."
TITLES = {key: COSTS[key].title for key in AXES}


class Frontier(pn.viewable.Viewer):
    """Gain against cost; a click takes a plan."""

    state = param.ClassSelector(class_=State)

    def __init__(
        self, state: State, frontier: FrontierPlans | None = None, verifying: Verifying | None = None
    ) -> None:
        super().__init__(state=state)
        self._frontier = frontier or FrontierPlans(state)
        self._verifying = verifying or Verifying(state)
        self._figure = partial(frontier_figure, state, self._frontier)
        self._axis = pmui.RadioButtonGroup(
            options={TITLES[state.axis]: state.axis},
            value=state.axis,
            size="small",
            margin=0,
            sx={
                "& button": {"whiteSpace": "nowrap", "px": 1.25, "py": 0.25},
                # Material's colour under the mouse has too little contrast in the dark, and a specific rule.
                "& button.Mui-selected.Mui-selected.Mui-selected:hover": {"backgroundColor": "primary.main"},
            },
        )
        self._chart = parts.chart(
            "Forecast against cost: best plans, well-known plans, and this plan", end_text="no limit"
        )
        self._chart.on_edit(partial(frontier_edited, state, self._frontier))
        self._note = parts.text()
        self._verify = pmui.Button(label="Verify this plan", size="small", variant="outlined", margin=0)
        self._cancel = pmui.Button(
            label="Cancel", color="error", size="small", variant="outlined", margin=0, visible=False
        )
        self._progress = parts.text(visible=False)
        self._failure = parts.text(visible=False)
        self._verify.on_click(lambda _: self._verifying.start())
        self._cancel.on_click(lambda _: self._verifying.cancel())
        self._verifying.param.watch(lambda _: self._show_verification(), "news")
        state.param.watch(Trailing(state.scheduler, self._show_verification), ["facts", "plan"])
        state.param.watch(Trailing(state.scheduler, self._show), ["prediction", "budget", "dark", "facts"])
        state.param.watch(self._show_axis, ["facts", "axis"])
        self._frontier.param.watch(lambda *_: self._show(), ["plans", "free", "problem"])
        self._axis.param.watch(lambda e: setattr(state, "axis", e.new), "value")
        self._show_axis()
        self._show()
        self._show_verification()

    def _show_axis(self, *_: object) -> None:
        options = {TITLES[key]: key for key in self._frontier.axes or [self.state.axis]}
        self._axis.param.update(options=options, value=self.state.axis)

    def _show(self) -> None:
        figure = self._figure()
        if figure is None:
            return
        assert self.state is not None
        note = frontier_note(self.state, self._frontier, USE, "Compare")
        with pn.io.hold():
            self._chart.figure = figure
            self._note.object = f'<span class="hint">{html.escape(note)}</span>'

    def _show_verification(self) -> None:
        """What goes on, or is known of the plan."""
        if not self.state.ready:
            return
        running, why, said = self._verifying.running, self._verifying.why_not, self._verifying.result
        with pn.io.hold():
            self._verify.disabled, self._verify.visible = bool(why), not running
            self._cancel.visible = running
            parts.put(self._failure, parts.problem_html(self._verifying.problem))
            if running or not said:
                parts.put(self._progress, parts.hint_html(said or why or VERIFY))
            else:
                parts.put(self._progress, f'<p role="status">{html.escape(said)}</p>')

    def __panel__(self) -> pn.viewable.Viewable:
        return parts.card(
            parts.heading("Frontier", "Forecast of the best plan for each budget, with its interval."),
            self._axis,
            self._chart,
            self._note,
            pmui.Row(self._verify, self._cancel, margin=0, sx={"gap": 1}),
            self._progress,
            self._failure,
        )
