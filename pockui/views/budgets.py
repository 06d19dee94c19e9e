"""Budgets, and the current plan beside well-known ones."""

from __future__ import annotations

import html
from typing import Any

import panel as pn
import panel_material_ui as pmui
import param

from pockgraph.search import Constraints

from ..components import answer
from ..components.budget_bar import BudgetBar
from ..info.budgets import BudgetRange, budget_range, to_limit
from ..info.costs import COSTS, is_known
from ..info.predictions import COMPARED, comparison
from ..state import State
from .parts import card, heading, table, text
from .search_rules import rules_text

ORIGINS = {
    "search": "Best plan found for this budget.",
    "edited": "Edited by hand.",
    "imported": "Imported from a file.",
    "frontier": "Taken from the frontier.",
}


class Budgets(pn.viewable.Viewer):
    """Sliders for memory and time, what went wrong, and the comparison."""

    state = param.ClassSelector(class_=State)

    def __init__(self, state: State) -> None:
        super().__init__(state=state)
        self._ranges: dict[str, BudgetRange] = {}
        self._bars = {key: self._bar(key) for key in ("peak_bytes", "process_bytes", "step_ms")}
        self._device = pmui.Select(label="Device", size="small", margin=0, sizing_mode="stretch_width")
        self._status = text()
        self._again = pmui.Button(label="Search again", size="small", variant="outlined", margin=0)
        self._unlock = pmui.Button(label="Unlock all", size="small", variant="text", margin=0)
        self._compare = text()
        self._again.on_click(lambda _: state.search_again())
        self._unlock.on_click(lambda _: state.unlock_all())
        self._device.param.watch(self._choose_device, "value")
        self._actions = pmui.Row(
            self._again,
            self._unlock,
            margin=0,
            sizing_mode="stretch_width",
            sx={"gap": 1, "flexWrap": "wrap"},
        )
        state.param.watch(self._show_ranges, "facts")
        state.param.watch(self._show, ["prediction", "budget", "problem", "origin", "locked", "rules"])
        self._show_ranges()

    def _bar(self, key: str) -> BudgetBar:
        cost = COSTS[key]
        bar = BudgetBar(label=cost.title, sizing_mode="stretch_width", margin=0)
        bar.help = [
            ["", cost.help],
            ["Bar", "what the current plan needs"],
            ["Handle", "the limit; the right end means none"],
            ["Hatched", "too little for any plan"],
        ]
        answer(bar, lambda edit: self._edited(key, edit))
        return bar

    def _choose_device(self, event: param.parameterized.Event) -> None:
        if self.state.ready and event.new != self.state.facts.device:
            self.state.use_device(event.new)

    def _edited(self, key: str, edit: dict[str, Any]) -> None:
        value = None if edit["value"] is None else float(edit["value"])
        limit = to_limit(key, value, self._ranges[key].unit)
        self.state.set_budget(final=edit["final"], **{key: limit})

    def _show_ranges(self, *_: object) -> None:
        if not self.state.ready:
            return
        facts = self.state.facts
        self._device.visible = len(facts.devices) > 1
        if facts.device is not None:
            self._device.param.update(options=list(facts.devices), value=facts.device)
        for key, bar in self._bars.items():
            found = budget_range(key, self.state.facts.known_plans)
            bar.visible = found is not None
            if found is None:
                continue
            self._ranges[key] = found
            bar.param.update(
                unit=found.unit.name, start=found.start, end=found.end, floor=found.floor,
                marks=[dict(m) for m in found.marks],
            )  # fmt: skip
        self._show()

    def _show(self, *_: object) -> None:
        s = self.state
        if not s.ready or s.prediction is None:
            return
        with pn.io.hold():
            for key, found in self._ranges.items():
                limit, used = getattr(s.budget, key), getattr(s.prediction.figures, key)
                self._bars[key].param.update(
                    value=None if limit is None else limit / found.unit.size,
                    used=None if used is None else used / found.unit.size,
                )
            self._status.object = self._describe()
            self._again.visible = s.origin != "search" or s.asked != Constraints()
            self._unlock.visible = bool(s.locked)
            self._actions.visible = self._again.visible or self._unlock.visible
            plans = {"This plan": s.prediction, **s.facts.known_plans}
            lines = comparison(plans, s.facts.contribution.baseline.mean)
            columns, lines = _without_unknown(COMPARED, lines)
            self._compare.object = table(columns, lines, mark=0)

    def _describe(self) -> str:
        """How the plan came about, and what is wrong."""
        s = self.state
        excess = " ".join(f"{COSTS[k].title}: {COSTS[k].text(v)} over budget." for k, v in s.excess.items())
        count = len(s.locked)
        locks = f" {count} tensor{'s' * (count > 1)} locked." if count else ""
        rules = f" {rules_text(s.rules)}." if s.rules != Constraints() else ""
        out = f'<span class="hint">{ORIGINS[s.origin]}{locks}{rules} {excess}</span>'
        if s.problem is not None:
            out = f'<div class="problem" role="alert">{html.escape(str(s.problem))}</div>'
        unknown = [COSTS[key].title for key in self._bars if not is_known(key, s.facts.profile)]
        if unknown:
            out += (
                f'<span class="hint">{" and ".join(unknown)} not measured, so there is no budget. '
                "<code>pockui device measure</code> measures plans on a device.</span>"
            )
        return out

    def __panel__(self) -> pn.viewable.Viewable:
        return card(
            heading("Budget", "The best plan that fits is searched while you move it."),
            self._device,
            *self._bars.values(),
            self._status,
            self._actions,
            self._compare,
            sx={"gap": 1.5},
        )


def _without_unknown(
    columns: tuple[str, ...], lines: list[tuple[str, ...]]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Without the columns that hold nothing."""
    kept = [i for i in range(len(columns)) if any(line[i] != "–" for line in lines)]
    return tuple(columns[i] for i in kept), [tuple(line[i] for i in kept) for line in lines]
