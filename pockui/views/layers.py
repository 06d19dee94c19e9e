"""What each tensor gains and costs, and the share of it that is trained."""

from __future__ import annotations

from functools import partial

import panel as pn
import panel_material_ui as pmui
import param

from pockgraph.errors import PlanError
from pockgraph.search import Constraints

from ..bindings import LayerBarsBinding, shown_rows
from ..components.web import LayerBars
from ..info.costs import COSTS, is_known
from ..info.layer_filter import ALL, ANY, FILTER_HELP, block_menu, kind_menu
from ..info.layers import ORDERS, TABLE_COLUMNS, table
from ..scheduling import Trailing
from ..state import State
from . import parts
from .search_rules import SearchRules

HINT = (
    f"Filter by {FILTER_HELP[0].lower()}{FILTER_HELP[1:]}; lock by a whole name or such a pattern. Select "
    "several tensors to set and lock them together: drag over their names, or click with Shift or Ctrl; by "
    "keyboard Space, Shift with arrows, Ctrl+A."
)


class Layers(pn.viewable.Viewer):
    """Bars to drag, with filter and order; the same as a table on demand."""

    state = param.ClassSelector(class_=State)

    def __init__(self, state: State) -> None:
        super().__init__(state=state)
        small = {"size": "small", "margin": 0, "sx": parts.FIELD}
        self._filter = pmui.TextInput(
            label="Filter tensors", value=state.filter, width=160, placeholder="name, glob or re:", **small
        )
        self._block = pmui.Select(label="Block", options={ALL: ANY}, value=ANY, width=120, **small)
        self._kind = pmui.Select(label="Kind of layer", options={ALL: ANY}, value=ANY, width=130, **small)
        self._order = pmui.Select(label="Order", options=ORDERS, value=state.order, width=150, **small)
        self._cost = pmui.Select(
            label="Cost", options={c.title: k for k, c in COSTS.items()}, value=state.cost, width=150, **small
        )
        self._all = pmui.Switch(label="All tensors", value=state.all_tensors, margin=0)
        self._as_table = pmui.Switch(label="Table", value=False, margin=0)
        self._fold = pmui.Switch(label="Locks and rules", value=False, margin=0)
        self._bars = LayerBars(sizing_mode="stretch_width", margin=0)
        self._table = parts.text(visible=False)
        self._progress = parts.text(visible=False)
        self._coverage = parts.text(visible=False)
        self._rules = pmui.Column(
            SearchRules(state), parts.text(parts.hint_html(HINT)), margin=0, sizing_mode="stretch_width",
            visible=False,
        )  # fmt: skip
        self._redraw_table = Trailing(state.scheduler, self._show_table)

        self._rows = partial(shown_rows, state)
        LayerBarsBinding(state, self._bars)
        self._cost.param.watch(lambda e: setattr(state, "cost", e.new), "value")
        self._filter.param.watch(lambda e: setattr(state, "filter", e.new or ""), "value_input")
        self._block.param.watch(lambda e: setattr(state, "block", e.new), "value")
        self._kind.param.watch(lambda e: setattr(state, "layer_kind", e.new), "value")
        self._order.param.watch(lambda e: setattr(state, "order", e.new), "value")
        self._all.param.watch(lambda e: setattr(state, "all_tensors", e.new), "value")
        self._as_table.param.watch(self._switch, "value")
        self._fold.param.watch(lambda e: setattr(self._rules, "visible", e.new), "value")
        state.param.watch(self._unfold, "rules")
        state.param.watch(self._show_study, "facts")
        state.param.watch(self._show_tools, ["cost", "filter", "block", "layer_kind", "order", "all_tensors"])
        state.param.watch(lambda *_: self._redraw_table(), ["plan", "prediction"])
        self._show_study()
        self._unfold()

    def _unfold(self, *_: object) -> None:
        """Rules that hold are seen."""
        if self.state.rules != Constraints():
            self._fold.value = True

    def _show_study(self, *_: object) -> None:
        s = self.state
        if not s.ready:
            return
        parts.put(self._progress, _progress(*s.facts.progress))
        parts.put(self._coverage, parts.hint_html(s.facts.coverage))
        self._block.options, self._kind.options = block_menu(s.facts.profile.tensors), kind_menu(s.facts.rows)
        self._cost.options = {c.title: k for k, c in COSTS.items() if is_known(k, s.facts.profile)}
        self._show_tools()

    def _show_tools(self, *_: object) -> None:
        """The tools follow the state, which a link sets, too."""
        s = self.state
        with pn.io.hold():
            if self._filter.value_input != s.filter:
                self._filter.param.update(value=s.filter, value_input=s.filter)
            self._block.value, self._kind.value = s.block, s.layer_kind
            self._order.value, self._cost.value, self._all.value = s.order, s.cost, s.all_tensors
            self._redraw_table()

    def _switch(self, *_: object) -> None:
        with pn.io.hold():
            self._bars.visible = not self._as_table.value
            self._table.visible = self._as_table.value
            self._show_table()

    def _show_table(self) -> None:
        if self._table.visible and self.state.ready:
            try:
                rows = self._rows()
            except PlanError:  # the line above says so
                return
            lines = table(rows, self.state.ratios, self.state.facts.metric)
            self._table.object = (
                f'<div class="long">{parts.table(TABLE_COLUMNS, lines, label="Tensors")}</div>'
            )

    def __panel__(self) -> pn.viewable.Viewable:
        tools = pmui.Row(
            self._filter, self._block, self._kind, self._order, self._cost, self._all, self._as_table,
            self._fold,
            margin=0, sizing_mode="stretch_width",
            sx={"flexWrap": "wrap", "gap": 1.5, "alignItems": "center", "py": 1},
        )  # fmt: skip
        return parts.card(
            parts.heading(
                "Layers",
                "Gain and cost of each tensor beside training the head alone. Drag its share; what you set "
                "is locked, so that moving a budget works around it.",
            ),
            self._progress,
            tools,
            self._rules,
            self._bars,
            self._table,
            self._coverage,
        )


def _progress(done: int, planned: int) -> str:
    if done >= planned:
        return ""
    return (
        f'<div class="notice">{done} of {planned} measurements are done, so gains are preliminary. '
        "Newer ones appear here by themselves; <code>pockui analyze</code> goes on where it stopped.</div>"
    )
