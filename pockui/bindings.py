"""State → what a part shows; a part's edit → a call of the state. The web app and notebooks share it.

Not here: how a part is drawn (`components/`), and what a figure says (`info/`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from pockgraph.errors import BudgetError, PlanError

from .frontier_plans import FrontierPlans
from .info import charts
from .info.budgets import EXAMPLES, BudgetRange, budget_range, to_limit, typed_limit
from .info.costs import COSTS
from .info.curves import cost_curve, gain_curve
from .info.format import MetricScale
from .info.frontier import FrontierInfo, axis_unit, frontier_info
from .info.layer_filter import LayerFilter
from .info.layers import LayerRow, component_rows, component_scale, select_rows
from .info.palette import palette
from .info.training import loss_history, metric_history
from .state import State
from .training import Training

BUDGETED = ("peak_bytes", "process_bytes", "step_ms")  # costs that have a bar of their own
Edit = dict[str, Any]


class Part(Protocol):
    """A draggable part, of either face; `components/properties.py` says what it shows and reports."""

    visible: Any

    def put(self, **values: Any) -> None:
        """Set some of its properties, at once."""
        ...

    def on_edit(self, handle: Callable[[Edit], None]) -> None:
        """Have `handle` deal with the edits, one after the other."""
        ...


def asked_rows(state: State) -> LayerFilter:
    """What the state's filters ask for."""
    return LayerFilter(state.filter, state.block, state.layer_kind, state.all_tensors)


def shown_rows(state: State, asked: LayerFilter | None = None) -> tuple[LayerRow, ...]:
    """The rows that the state's filters leave, in its order; what the plan trains although no gain is known,
    too. `asked` replaces the filters.

    Raises:
        PlanError: the filter is no regular expression.
    """
    plan, order = state.plan, state.facts.contribution.bias_order
    trained = set() if plan is None else plan.tensors.keys() - set(order)
    asked = asked_rows(state) if asked is None else asked
    return select_rows(state.facts.rows, asked, order=state.order, cost=state.cost, trained=trained)


class LayerBarsBinding:
    """The bars show the rows, the current shares and the locks; an edit sets, locks or selects."""

    def __init__(self, state: State, bars: Part) -> None:
        self._state, self._bars = state, bars
        self._shown: tuple[Any, ...] = ()
        bars.on_edit(self._edited)
        state.param.watch(
            self._show_rows,
            ["facts", "cost", "plan", "filter", "block", "layer_kind", "order", "all_tensors"],
        )
        state.param.watch(self._show_choice, "prediction")
        state.param.watch(self._show_locks, "locked")
        state.param.watch(lambda e: bars.put(selected=e.new), "selected")
        self._show_rows()

    def _edited(self, edit: Edit) -> None:
        kind, id, ids = edit["kind"], edit["id"], edit.get("ids")
        if kind == "select":
            self._state.selected = id
        elif kind == "lock" and ids:
            self._state.set_locks(ids, edit["on"])
        elif kind == "lock":
            self._state.set_lock(id, edit["on"])
        else:
            self._set(id, ids, float(edit["ratio"]), edit["final"])

    def _set(self, id: str, ids: list[str] | None, ratio: float, final: bool) -> None:
        if ids:
            self._state.set_ratios(ids, ratio, final)
            return
        if final:
            self._state.selected = id
        self._state.set_ratio(id, ratio, final)

    def _show_rows(self, *_: object) -> None:
        s = self._state
        if not s.ready:
            return
        try:
            rows = shown_rows(s)
        except PlanError as e:  # the rows that are there stay, while a regular expression is typed
            self._bars.put(count=str(e), refused=True)
            return
        asked, cost, scaled = asked_rows(s), COSTS[s.cost], LayerFilter(all_tensors=s.all_tensors)
        self._bars.put(count=asked.count_text(s.facts.rows, rows), refused=False)
        shown = (s.facts, s.cost, tuple(r.id for r in rows))
        if shown == self._shown and rows:
            return
        self._shown = shown
        self._bars.put(
            scale=component_scale(shown_rows(s, scaled), cost, s.facts.metric),
            rows=component_rows(rows, cost, s.facts.metric),
            selected=s.selected,
            empty="" if rows else asked.empty_text(s.facts.rows),
            locked=s.locked_rows,
            ratios=s.ratios,
        )

    def _show_choice(self, *_: object) -> None:
        if self._state.prediction is not None:
            self._bars.put(ratios=self._state.ratios)

    def _show_locks(self, *_: object) -> None:
        if self._state.ready:
            self._bars.put(locked=self._state.locked_rows)


class BudgetBarBinding:
    """A bar shows one limit and what the plan uses of it; an edit sets the limit."""

    def __init__(self, state: State, key: str, bar: Part) -> None:
        """Args:
        key: of `COSTS`; the bar is hidden while that is not known of plans.
        """
        self._state, self._key, self._bar = state, key, bar
        self._range: BudgetRange | None = None
        bar.put(
            label=COSTS[key].title,
            help=[
                ["", COSTS[key].help],
                ["Bar", "what the current plan needs"],
                ["Handle", "the limit; the right end means none"],
                ["Hatched", "too little for any plan"],
                ["Field", f"a number, {' or '.join(EXAMPLES[key.endswith('bytes')])}"],
            ],
        )
        bar.on_edit(self._edited)
        state.param.watch(self._show_range, "facts")
        state.param.watch(self._show, ["prediction", "budget"])
        self._show_range()

    def _edited(self, edit: Edit) -> None:
        if self._range is None:
            return
        if "text" in edit:
            try:
                limit = typed_limit(self._key, str(edit["text"]), self._range)
            except BudgetError as e:
                self._state.refuse(e)
                return
        else:
            value = None if edit["value"] is None else float(edit["value"])
            limit = to_limit(self._key, value, self._range.unit)
        self._state.set_budget(final=edit["final"], **{self._key: limit})

    def _show_range(self, *_: object) -> None:
        if not self._state.ready:
            return
        found = self._range = budget_range(self._key, self._state.facts.known_plans)
        self._bar.visible = found is not None
        if found is not None:
            self._bar.put(
                unit=found.unit.name, start=found.start, end=found.end, floor=found.floor,
                marks=[dict(m) for m in found.marks],
            )  # fmt: skip
        self._show()

    def _show(self, *_: object) -> None:
        s, found = self._state, self._range
        if not s.ready or s.prediction is None or found is None:
            return
        limit, used = getattr(s.budget, self._key), getattr(s.prediction.figures, self._key)
        self._bar.put(
            value=None if limit is None else limit / found.unit.size,
            used=None if used is None else used / found.unit.size,
        )


class CurveFigures(NamedTuple):
    """Charts of the selected row; `gain` is None where none was measured."""

    row: LayerRow
    gain: charts.Figure | None
    cost: charts.Figure


def curve_figures(state: State) -> CurveFigures | None:
    """The selected row's gain, and the plan's cost, over its trained share; None: nothing is selected."""
    if not state.ready or state.prediction is None or not state.selected:
        return None
    facts, row, colours = state.facts, state.facts.row(state.selected), palette(state.dark)
    now = 1.0 if row.fixed else state.ratios.get(row.id, 0.0)
    gain = None
    if row.gains:
        gain = charts.gain_chart(gain_curve(row, facts.forecaster.gains, now, facts.metric), colours)
    choice, cost = state.prediction.choice, COSTS[state.cost]
    curve = cost_curve(facts.profile, facts.contribution, choice, row, now, cost, state.budget)
    return CurveFigures(row, gain, charts.cost_chart(curve, colours))


def frontier_edited(state: State, frontier: FrontierPlans, edit: Edit) -> None:
    """A point of the chart takes its plan; the budget's line sets its limit."""
    if edit["kind"] == "click":
        frontier.take(edit["index"])
        return
    key = state.axis
    value = None if edit["value"] is None else float(edit["value"])
    limit = to_limit(key, value, axis_unit(state.facts.marks, COSTS[key]))
    state.set_budget(final=edit["final"], **{key: limit})


def frontier_figure(state: State, frontier: FrontierPlans) -> charts.Figure | None:
    """The frontier, well-known plans and the current one; None while there is no study."""
    if not state.ready:
        return None
    return charts.frontier_chart(frontier_shown(state, frontier), palette(state.dark))


def frontier_shown(state: State, frontier: FrontierPlans) -> FrontierInfo:
    """The same in numbers."""
    facts, cost = state.facts, COSTS[state.axis]
    return frontier_info(
        frontier.plans, facts.marks, state.prediction, state.budget, cost, facts.metric, frontier.free,
        facts.measured(state.axis),
    )  # fmt: skip


def frontier_note(state: State, frontier: FrontierPlans, use: str, others: str) -> str:
    """What is to be seen, and why there is nothing in the shaded part.

    Args:
        use: says what one can do there.
        others: where plans are shown that were trained in another way.
    """
    if frontier.problem is not None:
        return str(frontier.problem)
    if not frontier.plans:
        return "Searching the best plan for each budget …"
    facts, said = state.facts, [use]
    if frontier.free:
        said.append("The points keep to locks and rules; dotted: the best without them.")
    if facts.measured(state.axis):
        said.append("Filled diamonds: plans as they were trained.")
    if facts.others:
        many = f"{facts.others} plans were" if facts.others > 1 else "One plan was"
        said.append(f"{many} trained in another way: see {others}.")
    return " ".join(filter(None, [*said, frontier_shown(state, frontier).infeasible_text]))


def loss_figure(training: Training, dark: bool | None) -> charts.Figure | None:
    """The loss of the run that is followed; None before its first."""
    steps, losses = loss_history(training.job.events) if training.job is not None else ([], [])
    if training.job is None or not steps:
        return None
    return charts.loss_chart(steps, losses, training.job.spec["steps"], palette(dark))


def metric_figure(training: Training, dark: bool | None, metric: MetricScale) -> charts.Figure | None:
    """The validation metric of the run that is followed; None before its second value."""
    steps, values = metric_history(training.job.events) if training.job is not None else ([], [])
    if training.job is None or len(steps) < 2:
        return None
    return charts.metric_chart(steps, values, training.job.spec["steps"], metric, palette(dark))
