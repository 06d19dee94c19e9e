"""What is alive over the step, what keeps it alive, and what freezing a tensor would free."""

from __future__ import annotations

import html

import panel as pn
import panel_material_ui as pmui
import param

from ..info.live_values import COLUMNS
from ..scheduling import Trailing
from ..state import State
from ..step_timeline import StepTimeline
from . import parts

USE = (
    "Modelled bytes, operator by operator, by what they hold. Drag the line, or click: below is what is "
    "alive there. Operators that a plan has pruned leave their place empty."
)
WORDS = "td:nth-child(n + 3), th:nth-child(n + 3) { text-align: left; }"


class MemoryTimeline(pn.viewable.Viewer):
    """A chart with a line to move, the values alive there, and a tensor to freeze."""

    state = param.ClassSelector(class_=State)

    def __init__(self, state: State) -> None:
        super().__init__(state=state)
        step = self._step = StepTimeline(state)
        self._chart = parts.chart("Bytes alive over a training step, by kind, beside other plans")
        self._peaks, self._freezing = parts.text(), parts.text()
        self._alive = parts.text(stylesheets=[WORDS])
        self._to_peak = pmui.Button(label="Go to the peak", size="small", variant="outlined", margin=0)
        self._row = pmui.Select(
            label="Freeze", size="small", margin=0, sizing_mode="stretch_width",
            sx={**parts.FIELD, "maxWidth": 420}, options={},
        )  # fmt: skip
        self._chart.on_edit(step.edited)
        self._to_peak.on_click(lambda _: setattr(step, "place", None))
        self._row.param.watch(lambda e: self._select(e.new), "value")
        draw, freeze = parts.WhenShown(self._show), parts.WhenShown(self._show_freezing)
        self._when_shown = draw, freeze
        state.param.watch(Trailing(state.scheduler, draw), ["prediction", "dark"])
        state.param.watch(draw, "facts")
        state.param.watch(freeze, "selected")
        step.param.watch(lambda _: self._show_moment(), "place")
        parts.draw_later(self._when_shown)

    def set_shown(self, shown: bool) -> None:
        """Whether anybody sees it: what nobody sees is not drawn until then."""
        for draw in self._when_shown:
            draw.set_shown(shown)

    def _select(self, id: str) -> None:
        if id:
            self.state.selected = id

    def _show(self) -> None:
        if not self._step.ready:
            return
        rows = {row.prefix + row.short: row.id for row in self.state.facts.rows}
        with pn.io.hold():
            if self._row.options != rows:
                self._row.param.update(options=rows, value=self.state.selected)
            self._peaks.object = parts.hint_html(self._step.peaks())
            self._show_moment()
            self._show_freezing()

    def _show_moment(self) -> None:
        """The line, and what is alive where it stands."""
        figure = self._step.figure()
        if figure is None:
            return
        self._chart.figure = figure
        found = self._step.alive()
        self._to_peak.disabled = self._step.place is None
        table = parts.table(COLUMNS, found.lines, label="Values alive")
        rest = parts.hint_html(found.rest)
        heading = f'<h2>{html.escape(found.title)}</h2><span class="hint">{html.escape(found.sum)}</span>'
        self._alive.object = heading + table + rest

    def _show_freezing(self) -> None:
        if not self._step.ready:
            return
        if self._row.value != self.state.selected:
            self._row.value = self.state.selected
        said = html.escape(self._step.freezing())
        self._freezing.object = f'<p role="status">{said}</p>'

    def __panel__(self) -> pn.viewable.Viewable:
        return pmui.Column(
            parts.card(parts.heading("Memory over a step", USE), self._chart, self._peaks),
            parts.card(self._alive, pmui.Row(self._to_peak, margin=0)),
            parts.card(
                parts.heading("What freezing frees", "Of the peak, and why it is not more."),
                self._row,
                self._freezing,
            ),
            margin=0,
            sizing_mode="stretch_width",
            sx={"gap": 2},
        )
