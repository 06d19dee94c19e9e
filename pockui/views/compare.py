"""Runs and plans of the study, side by side: figures against a baseline, losses, and which tensors differ."""

from __future__ import annotations

from typing import Any

import panel as pn
import panel_material_ui as pmui
import param

from pockgraph.errors import PockError

from ..comparison import Comparison
from ..components.web import Records
from ..info import charts
from ..info.palette import palette
from ..info.records import differing_tensors, loss_curves, table_rows
from ..state import State
from ..training import Training
from . import parts

SMOOTHING = {"not smoothed": 0.0, "smoothed": 0.6, "smoothed more": 0.9}
MOST_LINES = 200
EMPTY = "Nothing is kept yet. Train this plan on the Train tab, or keep it here under a name."


class Compare(pn.viewable.Viewer):
    """A table of records, loss curves over each other, and tensors that differ."""

    state = param.ClassSelector(class_=State)

    def __init__(self, state: State, training: Training) -> None:
        super().__init__(state=state)
        self._training = training
        self.comparison = Comparison(state)
        self._table = Records(sizing_mode="stretch_width", margin=0)
        small = {"size": "small", "margin": 0, "sx": parts.FIELD}
        self._name = pmui.TextInput(label="Keep this plan as", placeholder="small", width=180, **small)
        self._keep = pmui.Button(label="Keep", size="small", variant="outlined", margin=0)
        self._hint = parts.text()
        self._said = parts.text(visible=False)
        self._smoothing = pmui.Select(label="Curves", options=SMOOTHING, value=0.6, width=160, **small)
        self._losses = parts.chart("Training losses of the runs that are compared, against the step")
        self._no_losses = parts.text(parts.hint_html("Tick runs above to see their losses over each other."))
        self._tensors = parts.text()
        self._table.on_edit(self._edited)
        self._keep.on_click(lambda _: self._keep_plan())
        self._name.param.watch(lambda _: self._keep_plan(), "enter_pressed")
        self._smoothing.param.watch(lambda e: setattr(self.comparison, "smoothing", e.new), "value")
        self._read_when_shown = parts.WhenShown(self.comparison.read)
        self._chart_when_shown = parts.WhenShown(self._show_losses)
        state.param.watch(self._read_when_shown, ["facts", "plan"])
        state.param.watch(self._chart_when_shown, "dark")
        training.param.watch(lambda _: None if training.running else self._read_when_shown(), "news")
        self.comparison.param.watch(self._show, ["records", "chosen", "baseline"])
        self.comparison.param.watch(self._show_losses, "smoothing")
        self.comparison.read()

    def set_shown(self, shown: bool) -> None:
        """Whether anybody sees it; what others have kept meanwhile is read when it is shown."""
        self._read_when_shown.set_shown(shown)
        self._chart_when_shown.set_shown(shown)
        if shown:
            self.comparison.read()

    def _edited(self, edit: dict[str, Any]) -> None:
        self._say("")
        if edit["kind"] == "choose":
            self.comparison.choose(edit["id"], edit["on"])
        elif edit["kind"] == "pin":
            self.comparison.pin(edit["id"])
        else:
            try:
                self.comparison.open(edit["id"])
            except PockError as e:
                self._say(str(e))

    def _keep_plan(self) -> None:
        try:
            self.comparison.keep(self._name.value_input or "")
        except PockError as e:
            self._say(str(e))
            return
        self._say("")
        self._name.param.update(value="", value_input="")

    def _say(self, problem: str) -> None:
        parts.put(self._said, parts.problem_html(problem))

    def _show(self, *_: object) -> None:
        c = self.comparison
        if not c.records:
            return
        with pn.io.hold():
            columns, rows = table_rows(c.records, c.chosen, c.baseline, self.state.facts.metric)
            self._table.put(columns=columns, rows=rows)
            self._hint.object = parts.hint_html(
                EMPTY if len(c.records) == 1
                else "Differences from the baseline are coloured from 5 % of a cost and 1 point of a metric."
                if c.baseline
                else "Pin one as the baseline to see how the others differ from it."
            )  # fmt: skip
            self._show_losses()
            self._show_tensors()

    def _show_losses(self, *_: object) -> None:
        curves = loss_curves(self.comparison.compared, self.comparison.smoothing)
        self._losses.visible, self._no_losses.visible = bool(curves), not curves
        if curves:
            self._losses.figure = charts.losses_chart(curves, palette(self.state.dark))

    def _show_tensors(self) -> None:
        compared = self.comparison.compared
        if len(compared) < 2:
            self._tensors.object = parts.hint_html("Tick at least two to see which tensors they train.")
            return
        head, lines = differing_tensors(compared)
        if not lines:
            self._tensors.object = parts.hint_html("They train the same channels of the same tensors.")
            return
        more = len(lines) - MOST_LINES
        self._tensors.object = parts.table(head, lines[:MOST_LINES]) + parts.hint_html(
            f"And {more} more." if more > 0 else ""
        )

    def __panel__(self) -> pn.viewable.Viewable:
        keep = pmui.Row(
            self._name, self._keep, margin=0, sx={"gap": 1.5, "flexWrap": "wrap", "alignItems": "center"}
        )
        return pmui.Column(
            parts.card(
                parts.heading("Compare", "Runs and plans that the study keeps, and this plan."),
                self._table, self._hint, keep, self._said,
            ),
            parts.card(parts.heading("Losses"), self._smoothing, self._losses, self._no_losses),
            parts.card(parts.heading("Tensors that differ"), self._tensors),
            margin=0,
            sizing_mode="stretch_width",
            sx={"gap": 2},
        )  # fmt: skip
