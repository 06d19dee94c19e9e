"""Widgets that plan: bars to drag, the frontier, what is alive when, and `Planner`, which joins them."""

from __future__ import annotations

from functools import partial
from typing import Any

import ipywidgets as w

from pockgraph.errors import PlanError
from pockgraph.notebook_html import ROWS, size_text, summary
from pockgraph.plan import Budget, Plan
from pockgraph.search.plan_search import Frontier

from ..bindings import (
    BUDGETED,
    BudgetBarBinding,
    LayerBarsBinding,
    curve_figures,
    frontier_edited,
    frontier_figure,
    frontier_note,
)
from ..frontier_plans import FrontierPlans
from ..info.costs import COSTS, is_known
from ..info.figure_tiles import figure_tiles
from ..info.layer_filter import block_menu, kind_menu
from ..info.layers import ORDERS
from ..info.live_values import COLUMNS
from ..info.predictions import ORIGINS
from ..scheduling import Trailing
from ..state import State
from ..step_timeline import StepTimeline
from .parts import (
    BESIDE,
    HALF,
    ROW,
    WIDE,
    BudgetBarPart,
    ChartPart,
    LayerBarsPart,
    OfStudy,
    Source,
    button,
    named,
    said,
    table_html,
    tiles_html,
)
from .verification import Verification

USE = "Click a point to take its plan, drag the line to move the budget."


def _field(kind: Any, state: State, name: str, **options: Any) -> Any:
    """A form field that shows an attribute of the state, and sets it."""
    field = kind(value=getattr(state, name), **options)
    field.observe(lambda change: setattr(state, name, change["new"]), "value")
    state.param.watch(lambda event: setattr(field, "value", event.new), name)
    return field


def plan_html(state: State) -> str:
    """The plan as it stands, for where widgets cannot run."""
    return said(str(state.problem), problem=True) if state.plan is None else state.plan._repr_html_()


class LayerBars(OfStudy):
    """What each tensor gains and costs, and the share of it that is trained: drag it, lock it.

    Args:
        source: a study, its file, or the `state` of another widget, which this one then shares.

    Attributes:
        state: what is looked at and chosen.
        bars: the draggable part.
    """

    def __init__(self, source: Source) -> None:
        state = self.state = self.state_of(source)
        self.bars = LayerBarsPart(layout=WIDE)
        LayerBarsBinding(state, self.bars)
        known = {c.title: key for key, c in COSTS.items() if is_known(key, state.facts.profile)}
        filter = _field(w.Text, state, "filter", placeholder="name, glob or re:", **named("Filter", 190))
        menus = {
            "block": ("Block", block_menu(state.facts.profile.tensors)),
            "layer_kind": ("Kind", kind_menu(state.facts.rows)),
            "order": ("Order", ORDERS),
            "cost": ("Cost", known),
        }
        fields = [
            _field(w.Dropdown, state, name, options=[*options.items()], **named(title, 190))
            for name, (title, options) in menus.items()
        ]
        all_tensors = _field(w.Checkbox, state, "all_tensors", description="All tensors", indent=False)
        all_tensors.layout.width = "auto"
        tools = w.HBox([filter, *fields, all_tensors], layout=ROW)
        super().__init__([tools, self.bars])

    def _repr_html_(self) -> str:
        return plan_html(self.state)


class FrontierLine(OfStudy):
    """The best plan for each of many budgets; a click on one takes it, and the budget is a line to drag.

    Args:
        source: as `LayerBars` takes it.

    Attributes:
        chart: the part to drag or click.
    """

    def __init__(self, source: Source) -> None:
        state = self.state = self.state_of(source)
        self._frontier = FrontierPlans(state)
        self.chart = ChartPart(
            label="Forecast against cost: best plans, well-known plans, and this plan",
            end_text="no limit",
            layout=WIDE,
        )
        self.chart.on_edit(partial(frontier_edited, state, self._frontier))
        self._note = w.HTML()
        axes = [(COSTS[key].title, key) for key in self._frontier.axes]
        axis = _field(w.ToggleButtons, state, "axis", options=axes, style={"button_width": "auto"})
        state.param.watch(Trailing(state.scheduler, self._show), ["prediction", "budget", "facts"])
        self._frontier.param.watch(lambda *_: self._show(), ["plans", "free", "problem"])
        self._show()
        super().__init__([axis, self.chart, self._note, Verification(state)])

    def _repr_html_(self) -> str:
        plans = self._frontier.plans
        return plans._repr_html_() if isinstance(plans, Frontier) else self._note.value

    def _show(self) -> None:
        self.chart.put(figure=frontier_figure(self.state, self._frontier))
        note = frontier_note(self.state, self._frontier, USE, "study.runs()")
        self._note.value = said(note, problem=self._frontier.problem is not None)


class MemoryTimeline(OfStudy):
    """What is alive over a step of the plan, beside full training and the preset; what is alive at a moment
    that is clicked, or to which the line is dragged, and what would free it. Below is what freezing the
    selected tensor would do.

    Args:
        source: as `LayerBars` takes it.

    Attributes:
        step: the step, moment by moment; its `place` is what is looked at.
        chart: the part to drag or click.
    """

    def __init__(self, source: Source) -> None:
        state = self.state = self.state_of(source)
        step = self.step = StepTimeline(state)
        self.chart = ChartPart(
            label="Bytes alive over a training step, by kind, beside other plans", layout=WIDE
        )
        self.chart.on_edit(step.edited)
        self._peaks, self._alive, self._freezing = (w.HTML(layout=WIDE) for _ in range(3))
        self._to_peak = button("Go to the peak")
        self._to_peak.on_click(lambda _: setattr(step, "place", None))
        state.param.watch(Trailing(state.scheduler, self._show), ["prediction", "selected"])
        step.param.watch(lambda _: self._show(), "place")
        self._show()
        super().__init__([self.chart, self._peaks, self._alive, self._to_peak, self._freezing])

    def _repr_html_(self) -> str:
        prediction = self.state.prediction
        if prediction is None:
            return ""
        step = self.state.facts.profile.live_bytes(prediction.choice)
        largest = sorted(step, key=lambda point: -point[2])
        rows = [
            (name, "forward" if forward else "backward", size_text(alive)) for name, forward, alive in largest
        ]
        title = f"What is alive in a step: {size_text(largest[0][2])} at most"
        return summary(
            title,
            ("operator", "pass", "alive"),
            rows[:ROWS],
            [alive for _, _, alive in step],
            "from the first operator to the last",
        )

    def _show(self) -> None:
        if not self.step.ready:
            return
        self.chart.put(figure=self.step.figure())
        found = self.step.alive()
        self._to_peak.layout.display = "none" if self.step.place is None else None
        self._peaks.value = said(self.step.peaks())
        self._alive.value = said(f"{found.title}. {found.sum}") + table_html(COLUMNS, found.lines)
        self._freezing.value = said(self.step.freezing())


class _Curves(w.VBox):
    """The selected tensor's gain, and the plan's cost, over its trained share."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._title = w.HTML()
        self.gain = ChartPart(label="Gain of the selected tensor against its trained share", layout=HALF)
        self.cost = ChartPart(label="Cost of the plan against the selected tensor's share", layout=HALF)
        names = ["prediction", "budget", "cost", "selected"]
        state.param.watch(Trailing(state.scheduler, self._show), names)
        self._show()
        both = w.HBox([self.gain, self.cost], layout=BESIDE)
        super().__init__([self._title, both], layout=WIDE)

    def _show(self) -> None:
        found = curve_figures(self.state)
        if found is not None:
            self._title.value = said(found.row.prefix + found.row.short)
            self.gain.visible = found.gain is not None
            if found.gain is not None:
                self.gain.put(figure=found.gain)
            self.cost.put(figure=found.cost)


class Planner(OfStudy):
    """Budgets, layers, frontier, curves and memory over one state: drag, and read `plan`.

    Args:
        source: a study that was analysed, its file, or another widget's `state`.

    Raises:
        StudyError: no study there, or nothing was measured yet.

    Example:
        >>> planner = Planner(study)
        >>> planner.plan.save("my.plan.json")
    """

    def __init__(self, source: Source) -> None:
        state = self.state = self.state_of(source)
        self._tiles, self._status = w.HTML(layout=WIDE), w.HTML()
        self.budgets = {key: BudgetBarPart(layout=WIDE) for key in BUDGETED}
        for key, bar in self.budgets.items():
            BudgetBarBinding(state, key, bar)
        buttons = {
            "undo": button("Undo"),
            "redo": button("Redo"),
            "search_again": button("Search again"),
            "unlock_all": button("Unlock all"),
        }
        self._buttons = buttons
        for name, action in buttons.items():
            action.on_click(lambda _, name=name: getattr(state, name)())
        actions = w.HBox(list(buttons.values()), layout=ROW)
        self.layers, self.frontier = LayerBars(state), FrontierLine(state)
        self.timeline, self.curves = MemoryTimeline(state), _Curves(state)
        tabs = w.Tab([w.VBox([self.layers, self.curves]), self.frontier, self.timeline])
        tabs.titles = ("Layers", "Frontier", "Memory")
        state.param.watch(
            lambda *_: self._show(),
            ["prediction", "budget", "problem", "origin", "locked", "can_undo", "can_redo"],
        )
        self._show()
        super().__init__([self._tiles, *self.budgets.values(), self._status, actions, tabs])

    @property
    def plan(self) -> Plan:
        """The plan as it stands. Setting one moves the bars.

        Raises:
            PlanError: there is none yet; on setting, the plan is another model's.
        """
        if self.state.plan is None:
            raise self.state.problem or PlanError("There is no plan yet.")
        return self.state.plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self.state.take(plan)

    @property
    def budget(self) -> Budget:
        """What the plan may need. Setting one searches the best plan for it.

        Raises:
            BudgetError: on setting, no plan meets it; the plan stays.
        """
        return self.state.budget

    @budget.setter
    def budget(self, budget: Budget) -> None:
        self.state.set_budget(**{key: getattr(budget, key) for key in Budget.__dataclass_fields__})
        if self.state.problem is not None:
            raise self.state.problem

    def _repr_html_(self) -> str:
        return f"<div>{self._tiles.value}{plan_html(self.state)}</div>"

    def _show(self) -> None:
        s = self.state
        if s.prediction is not None:
            facts = s.facts
            full, baseline = facts.known_plans["Full"], facts.contribution.baseline.mean
            self._tiles.value = tiles_html(
                figure_tiles(s.prediction, full, baseline, facts.profile, s.budget)
            )
        locked = f" {len(s.locked)} tensor{'s' * (len(s.locked) > 1)} locked." if s.locked else ""
        excess = "".join(f" {COSTS[k].title}: {COSTS[k].text(v)} over budget." for k, v in s.excess.items())
        if s.problem is not None:
            self._status.value = said(str(s.problem), problem=True)
        else:
            self._status.value = said(f"{ORIGINS[s.origin]}{locked}{excess}")
        self._buttons["undo"].disabled, self._buttons["redo"].disabled = not s.can_undo, not s.can_redo
        self._buttons["search_again"].disabled = s.origin == "search" and not s.locked
        self._buttons["unlock_all"].disabled = not s.locked
