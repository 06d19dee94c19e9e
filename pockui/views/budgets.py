"""Budgets, and the current plan beside well-known ones."""

from __future__ import annotations

import html
import shlex
from pathlib import Path

import panel as pn
import panel_material_ui as pmui
import param

from pockgraph.search import Constraints

from ..bindings import BUDGETED, BudgetBarBinding
from ..components.web import BudgetBar
from ..info.costs import COSTS, is_known
from ..info.predictions import COMPARED, ORIGINS, comparison
from ..state import State
from .parts import card, heading, put, table, text
from .search_rules import rules_text

STATUS_HEIGHT = "92px"  # four lines in a frame: what is below stays where it is while a handle is dragged


class Budgets(pn.viewable.Viewer):
    """Sliders for memory and time, what went wrong, and the comparison."""

    state = param.ClassSelector(class_=State)

    def __init__(self, state: State) -> None:
        super().__init__(state=state)
        self._bars = {key: BudgetBar(sizing_mode="stretch_width", margin=0) for key in BUDGETED}
        for key, bar in self._bars.items():
            BudgetBarBinding(state, key, bar)
        self._device = pmui.Select(label="Device", size="small", margin=0, sizing_mode="stretch_width")
        self._status = text(styles={"min-height": STATUS_HEIGHT})
        self._unknown = text(visible=False)
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
        state.param.watch(self._show_study, "facts")
        state.param.watch(self._show, ["prediction", "budget", "problem", "origin", "locked", "rules"])
        self._show_study()

    def _choose_device(self, event: param.parameterized.Event) -> None:
        if self.state.ready and event.new != self.state.facts.device:
            self.state.use_device(event.new)

    def _show_study(self, *_: object) -> None:
        if not self.state.ready:
            return
        facts = self.state.facts
        self._device.visible = len(facts.devices) > 1
        if facts.device is not None:
            self._device.param.update(options=list(facts.devices), value=facts.device)
        put(self._unknown, self._unmeasured())
        self._show()

    def _show(self, *_: object) -> None:
        s = self.state
        if not s.ready or s.prediction is None:
            return
        with pn.io.hold():
            self._status.object = self._describe()
            self._again.disabled = s.origin == "search" and s.asked == Constraints()
            self._unlock.disabled = not s.locked
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
        if s.problem is not None:
            return f'<div class="problem" role="alert">{html.escape(str(s.problem))}</div>'
        return f'<span class="hint">{ORIGINS[s.origin]}{locks}{rules} {excess}</span>'

    def _unmeasured(self) -> str:
        """Which budgets there are not, and how there would be."""
        unknown = [COSTS[key].title for key in self._bars if not is_known(key, self.state.facts.profile)]
        if not unknown:
            return ""
        path, here = self.state.facts.path, Path.cwd()
        study = shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
        return (
            f'<span class="hint">No budget yet for {" and ".join(unknown).lower()}. Measured plans give one: '
            f"<code>pockui device measure {html.escape(study)}</code>.</span>"
        )

    def __panel__(self) -> pn.viewable.Viewable:
        return card(
            heading("Budget", "The best plan that fits is searched while you move it."),
            self._device,
            *self._bars.values(),
            self._status,
            self._actions,
            self._compare,
            self._unknown,
            sx={"gap": 1.5},
        )


def _without_unknown(
    columns: tuple[str, ...], lines: list[tuple[str, ...]]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Without the columns that hold nothing."""
    kept = [i for i in range(len(columns)) if any(line[i] != "–" for line in lines)]
    return tuple(columns[i] for i in kept), [tuple(line[i] for i in kept) for line in lines]
