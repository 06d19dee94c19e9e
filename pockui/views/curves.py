"""One tensor's gain, estimated and measured, and the plan's cost against its trained share."""

from __future__ import annotations

import html
from functools import partial

import panel as pn
import panel_material_ui as pmui
import param

from ..bindings import curve_figures
from ..info.gains import COVERAGE_TEXT
from ..scheduling import Trailing
from ..state import State
from . import parts

GAINS = (
    "The line is what each share is estimated to gain, given all that was measured and trained; "
    f"{COVERAGE_TEXT} true gains lie in its intervals. Rings are as measured, with all their noise."
)


class Curves(pn.viewable.Viewer):
    """Two small charts of the selected row."""

    state = param.ClassSelector(class_=State)

    def __init__(self, state: State) -> None:
        super().__init__(state=state)
        self._figures = partial(curve_figures, state)
        self._title = parts.text()
        self._gain = parts.chart("Gain of the selected tensor against its trained share")
        self._cost = parts.chart("Cost of the plan against the selected tensor's trained share")
        draw = parts.WhenShown(self._show)
        self.set_shown = draw.set_shown
        state.param.watch(Trailing(state.scheduler, draw), ["prediction", "budget", "cost", "dark"])
        state.param.watch(draw, ["selected", "facts"])
        self._show()

    def _show(self) -> None:
        found = self._figures()
        if found is None:
            return
        row = found.row
        with pn.io.hold():
            self._title.object = (
                f"<h2>{html.escape(row.prefix)}{html.escape(row.short)}</h2>"
                f'<span class="hint">{GAINS if row.gains else _why_no_gain(row.fixed)} '
                "Select another tensor by its name in the list.</span>"
            )
            self._gain.visible = found.gain is not None
            if found.gain is not None:
                self._gain.figure = found.gain
            self._cost.figure = found.cost

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
