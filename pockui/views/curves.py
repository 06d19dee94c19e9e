"""One tensor's gain and the plan's cost against its trained share."""

from __future__ import annotations

import html

import panel as pn
import panel_material_ui as pmui
import param

from ..info import charts
from ..info.costs import COSTS
from ..info.curves import cost_curve, gain_curve
from ..info.palette import palette
from ..state import State
from . import parts


class Curves(pn.viewable.Viewer):
    """Two small charts of the selected row."""

    state = param.ClassSelector(class_=State)

    def __init__(self, state: State) -> None:
        super().__init__(state=state)
        self._title = parts.text()
        self._gain = parts.chart("Gain of the selected tensor against its trained share")
        self._cost = parts.chart("Cost of the plan against the selected tensor's trained share")
        draw = parts.WhenShown(self._show)
        self.set_shown = draw.set_shown
        state.param.watch(parts.Trailing(draw), ["prediction", "budget", "cost", "dark"])
        state.param.watch(draw, ["selected", "facts"])
        self._show()

    def _show(self) -> None:
        s = self.state
        if not s.ready or s.prediction is None or not s.selected:
            return
        facts, row, colours = s.facts, s.facts.row(s.selected), palette(s.dark)
        now = 1.0 if row.fixed else s.ratios.get(row.id, 0.0)
        cost = COSTS[s.cost]
        with pn.io.hold():
            self._title.object = (
                f"<h2>{html.escape(row.prefix)}{html.escape(row.short)}</h2>"
                f'<span class="hint">{"" if row.gains else _why_no_gain(row.fixed)} '
                "Select another tensor by its name in the list.</span>"
            )
            self._gain.visible = bool(row.gains)
            if row.gains:
                self._gain.figure = charts.gain_chart(gain_curve(row, now, facts.metric), colours)
            choice = s.prediction.choice
            curve = cost_curve(facts.profile, facts.contribution, choice, row, now, cost, s.budget)
            self._cost.figure = charts.cost_chart(curve, colours)

    def __panel__(self) -> pn.viewable.Viewable:
        side = {"xs": 12, "sm": 6}
        return parts.card(
            self._title,
            pmui.Grid(
                pmui.Grid(self._gain, size=side),
                pmui.Grid(self._cost, size=side),
                container=True, spacing=2, margin=0, sizing_mode="stretch_width",
            ),
        )  # fmt: skip


def _why_no_gain(fixed: bool) -> str:
    if fixed:
        return "The head is trained in every plan: gains are counted from there."
    return "Not measured. <code>pockui analyze --tensors NAME</code> adds it to the study."
