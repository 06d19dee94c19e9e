"""What each tensor gains and costs, and the share of it that is trained."""

from __future__ import annotations

from typing import Any

import panel as pn
import panel_material_ui as pmui
import param

from ..components import answer
from ..components.layer_bars import LayerBars
from ..info.costs import COSTS, is_known
from ..info.layers import (
    ORDERS,
    TABLE_COLUMNS,
    LayerRow,
    component_rows,
    component_scale,
    select_rows,
    table,
)
from ..state import State
from . import parts
from .search_rules import SearchRules


class Layers(pn.viewable.Viewer):
    """Bars to drag, with filter and order; the same as a table on demand."""

    state = param.ClassSelector(class_=State)

    def __init__(self, state: State) -> None:
        super().__init__(state=state)
        small = {"size": "small", "margin": 0, "sx": parts.FIELD}
        self._filter = pmui.TextInput(label="Filter tensors", width=170, **small)
        self._order = pmui.Select(label="Order", options=ORDERS, value="network", width=150, **small)
        self._cost = pmui.Select(
            label="Cost", options={c.title: k for k, c in COSTS.items()}, width=150, **small
        )
        self._all = pmui.Switch(label="All tensors", value=False, margin=0)
        self._as_table = pmui.Switch(label="Table", value=False, margin=0)
        self._shown: tuple[Any, ...] = ()
        self._bars = LayerBars(sizing_mode="stretch_width", margin=0)
        self._table = parts.text(visible=False)
        self._progress = parts.text(visible=False)
        self._coverage = parts.text(visible=False)
        self._rules = SearchRules(state)
        self._redraw_table = parts.Trailing(self._show_table)

        answer(self._bars, self._edited)
        self._cost.param.watch(lambda e: setattr(state, "cost", e.new), "value")
        for widget in (self._filter, self._order, self._all):
            widget.param.watch(self._show_rows, "value_input" if widget is self._filter else "value")
        self._as_table.param.watch(self._switch, "value")
        state.param.watch(self._show_rows, ["facts", "cost", "plan"])
        state.param.watch(self._show_choice, "prediction")
        state.param.watch(self._show_locks, "locked")
        state.param.watch(lambda e: setattr(self._bars, "selected", e.new), "selected")
        self._show_rows()

    def _edited(self, edit: dict[str, Any]) -> None:
        kind, id = edit["kind"], edit["id"]
        if kind == "select":
            self.state.selected = id
        elif kind == "lock":
            self.state.set_lock(id, edit["on"])
        else:
            if edit["final"]:
                self.state.selected = id
            self.state.set_ratio(id, float(edit["ratio"]), final=edit["final"])

    def _selection(self, text: str | None = None) -> tuple[LayerRow, ...]:
        return select_rows(
            self.state.facts.rows,
            text=(self._filter.value_input or "") if text is None else text,
            order=self._order.value,
            cost=self.state.cost,
            all_tensors=self._all.value,
            trained=self._unmeasured(),
        )

    def _unmeasured(self) -> set[str]:
        """What the plan trains although no gain is known; biases have their row."""
        plan, order = self.state.plan, self.state.facts.contribution.bias_order
        return set() if plan is None else plan.tensors.keys() - set(order)

    def _show_rows(self, *_: object) -> None:
        s = self.state
        if not s.ready:
            return
        self._cost.options = {c.title: k for k, c in COSTS.items() if is_known(k, s.facts.profile)}
        rows, cost = self._selection(), COSTS[s.cost]
        shown = (s.facts, s.cost, tuple(r.id for r in rows))
        if shown == self._shown:
            return
        self._shown = shown
        parts.put(self._progress, _progress(*s.facts.progress))
        parts.put(self._coverage, parts.hint_html(s.facts.coverage))
        with pn.io.hold():
            self._cost.value = s.cost
            self._bars.param.update(
                scale=component_scale(self._selection(text=""), cost, s.facts.metric),
                rows=component_rows(rows, cost, s.facts.metric),
                selected=s.selected,
                empty=f"No tensor's name contains “{self._filter.value_input}”. Clear the filter to see all.",
            )
            self._show_choice()
            self._show_locks()

    def _show_choice(self, *_: object) -> None:
        if self.state.prediction is not None:
            self._bars.ratios = self.state.ratios
            self._redraw_table()

    def _show_locks(self, *_: object) -> None:
        if self.state.ready:
            self._bars.locked = self.state.locked_rows

    def _switch(self, *_: object) -> None:
        with pn.io.hold():
            self._bars.visible = not self._as_table.value
            self._table.visible = self._as_table.value
            self._show_table()

    def _show_table(self) -> None:
        if self._table.visible and self.state.ready:
            lines = table(self._selection(), self.state.ratios, self.state.facts.metric)
            self._table.object = f'<div class="long">{parts.table(TABLE_COLUMNS, lines)}</div>'

    def __panel__(self) -> pn.viewable.Viewable:
        tools = pmui.Row(
            self._filter, self._order, self._cost, self._all, self._as_table,
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
        "Reload the page for newer ones; <code>pockui analyze</code> goes on where it stopped.</div>"
    )
