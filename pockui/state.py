"""What one session looks at and has chosen. No Panel here: every face and the tests use the same store."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import param

from pockgraph.errors import PlanError, PockError
from pockgraph.plan import Budget, Plan
from pockgraph.search import Constraints
from pockgraph.search.constraints import Lock, matching

from .facts import Facts, read_facts
from .history import History, Snapshot
from .info.costs import COSTS
from .info.layer_filter import ANY, LAYER_KINDS
from .info.layers import ORDERS, LayerRow, chosen, ratios_of
from .info.predictions import Prediction, over_budget
from .scheduling import AtOnce, Executor, Scheduler, run_now

AXES = ("peak_bytes", "process_bytes", "step_ms", "extra_bytes")  # costs that the frontier is drawn over


class State(param.Parameterized):
    """The one store of a session. Views read it and call its methods; nobody else assigns.

    Lists and dicts are replaced, never changed.
    """

    facts = param.Parameter(doc="Facts; a PockError that says why there are none; None: no study was named.")
    budget = param.Parameter(default=Budget(), doc="What the plan may need.")
    locked = param.Dict(default={}, doc="FQN -> share that a search keeps.")
    rules = param.Parameter(default=Constraints(), doc="Constraints that a search keeps to beside locks.")
    prediction = param.Parameter(doc="Prediction of the current choice, or None. Follows a drag.")
    plan = param.Parameter(doc="The Plan of the last finished edit, or None. Lags behind a drag.")
    problem = param.Parameter(doc="The PockError that kept the last request from being met, or None.")
    origin = param.String(
        default="search",
        doc="search, edited, frontier, kept, imported, linked (from an address) or outdated (searched before "
        "the study changed): how the plan came about.",
    )
    selected = param.String(doc="Id of the row whose curves are shown.")
    cost = param.Selector(default="peak_bytes", objects=list(COSTS), doc="Which cost the views compare.")
    axis = param.Selector(default=AXES[0], objects=list(AXES), doc="Which cost the frontier is drawn over.")
    filter = param.String(doc="Rows are shown whose name fits it, see `LayerFilter.text`.")
    block = param.String(doc="Rows are shown of this block; empty: of all.")
    layer_kind = param.Selector(default=ANY, objects=[ANY, *LAYER_KINDS], doc="And of this kind.")
    order = param.Selector(default="network", objects=list(ORDERS.values()), doc="Of the rows.")
    all_tensors = param.Boolean(default=False, doc="Also show what was not measured, and biases one by one.")
    can_undo = param.Boolean(default=False)
    can_redo = param.Boolean(default=False)
    dark = param.Boolean(
        default=False, allow_None=True,
        doc="Whether the page is dark; charts follow. None: they take the page's own colours, see `palette`.",
    )  # fmt: skip

    def __init__(self, run: Executor = run_now, scheduler: Scheduler | None = None, **params: Any) -> None:
        """Args:
        run: computes plans: calls its second argument with what its first returns, or with the
            PockError that raises. A server passes one that works in a thread.
        scheduler: of what follows a change a moment later, and of what other threads report.
        """
        super().__init__(**params)
        self._run = run
        self.scheduler = scheduler or AtOnce()
        self._history = History()
        self._searching: bool | None = None  # whether the search that goes on is final; None: none does
        self._searches = 0  # that began
        self._dropped = 0  # of these: what they find is of no use, since another plan was chosen

    # ------------------------------------------------------------------ opening

    def open(self, path: str | os.PathLike[str]) -> None:
        """Open a study; the budget starts half way between the head's need and the best plan's."""
        try:
            self.show(read_facts(path))
        except PockError as e:
            self.param.update(facts=e, plan=None, prediction=None)

    def show(self, facts: Facts, planned: Snapshot | None = None) -> None:
        """Start over with these facts.

        Args:
            planned: what to show; else the best plan is searched.
        """
        self._history, self._searching = History(planned), None
        self.param.update(
            facts=facts, budget=facts.opening_budget, locked={}, rules=Constraints(), plan=None,
            prediction=None, problem=None, origin="search", selected=facts.best_row, can_undo=False,
            can_redo=False,
        )  # fmt: skip
        if planned is None:
            self._search(final=True)
        else:
            self._return_to(planned)

    def use_device(self, name: str) -> None:
        """Show what the plan costs on another device; limits of its time and process are lifted."""
        try:
            facts = read_facts(self.facts.path, name)
        except PockError as e:
            self.problem = e
            return
        self._history, self._searching = History(), None
        budget, prediction, plan = replace(self.budget, step_ms=None, process_bytes=None), None, self.plan
        if plan is not None:
            prediction = facts.predict(facts.profile.ratios_of(plan))
            plan = facts.foretold(plan)
            self._history = History(Snapshot(budget, dict(self.locked), self.rules, plan, self.origin))
        self.param.update(
            facts=facts, budget=budget, prediction=prediction, plan=plan, problem=None, can_undo=False,
            can_redo=False,
        )  # fmt: skip

    def refresh(self, facts: Facts) -> None:
        """Show newer facts of the same study: what was chosen stays, and what can be undone."""
        shown = self.facts
        if not self.ready or facts is shown or _model(facts) != _model(shown):
            return
        if facts.forecaster is shown.forecaster and facts.profile is shown.profile:
            self.facts = facts  # it predicts what the other did
            return

        def renewed(snapshot: Snapshot) -> Snapshot:
            origin = "outdated" if snapshot.origin in ("search", "frontier") else snapshot.origin
            return snapshot._replace(plan=facts.foretold(snapshot.plan), origin=origin)

        self._history.renew(renewed)
        now, prediction = self._history.now, self.prediction
        self.param.update(
            facts=facts, plan=None if now is None else now.plan,
            origin=now.origin if now is not None and self.origin in ("search", "frontier") else self.origin,
            prediction=None if prediction is None else facts.predict(prediction.choice),
        )  # fmt: skip
        if self._searching is not None:  # its answer would be of the facts before
            self._search(self._searching)

    @property
    def ready(self) -> bool:
        return isinstance(self.facts, Facts)

    @property
    def ratios(self) -> dict[str, float]:
        """Row id -> trained share."""
        return ratios_of(self.prediction.choice, self.facts.contribution) if self.prediction else {}

    @property
    def locked_rows(self) -> list[str]:
        """Ids of the rows that are locked; the biases' row when all of them are."""
        ids = list(self.locked)
        order = self.facts.contribution.bias_order
        if order and all(fqn in self.locked for fqn in order):
            ids.append("biases")
        return ids

    @property
    def excess(self) -> dict[str, float]:
        """Key of a cost -> by how much the current choice exceeds the budget."""
        return over_budget(self.prediction.figures, self.budget) if self.prediction else {}

    # ------------------------------------------------------------------ edits

    def set_budget(self, final: bool = True, **limits: float | None) -> None:
        """Change one or more limits (`peak_bytes`, `extra_bytes`, `step_ms`; None lifts one) and search.

        Args:
            final: the end of a drag, or a single edit: one step for undo.
        """
        self.budget = replace(self.budget, **limits)
        self._search(final)

    def refuse(self, problem: PockError) -> None:
        """Say why a request was not understood; the plan that stands stays."""
        self.param.update(problem=problem, can_undo=self.plan is not None)

    def search_again(self) -> None:
        """The best plan for the budget around what is locked, after edits by hand."""
        self._search(final=True)

    def set_ratio(self, id: str, ratio: float, final: bool = True) -> None:
        """Set the trained share of a row by hand and lock it; everything else stays as it is."""
        self._set(chosen(id, ratio, self.facts.contribution), final)

    def set_ratios(self, ids: Iterable[str], ratio: float, final: bool = True) -> None:
        """Set several rows, each to the share nearest to `ratio` that it can have; the head's stay whole."""
        change: dict[str, float] = {}
        for row in self._movable(ids):
            change |= chosen(row.id, row.nearest(ratio), self.facts.contribution)
        if change:
            self._set(change, final)

    def _set(self, change: Mapping[str, float], final: bool) -> None:
        if self.prediction is None:
            return
        choice = {**self.prediction.choice, **change}
        prediction = self.facts.predict(choice)
        if not final:
            self.prediction = prediction
            return
        self._drop_searches()
        self._adopt(prediction, self._plan_of(prediction, "edited"), "edited", {**self.locked, **change})

    def set_lock(self, id: str, on: bool) -> None:
        """Keep the present share of a row in searches, or let it go."""
        self._lock_shares(chosen(id, 0, self.facts.contribution), on)

    def set_locks(self, ids: Iterable[str], on: bool) -> None:
        """The same for several rows, as one edit; the head's are not meant."""
        rows = self._movable(ids)
        self._lock_shares([fqn for row in rows for fqn in chosen(row.id, 0, self.facts.contribution)], on)

    def _lock_shares(self, names: Iterable[str], on: bool) -> None:
        names = list(names)
        if on:
            choice = self.prediction.choice if self.prediction else {}
            self._lock({**self.locked, **{fqn: choice.get(fqn, 0.0) for fqn in names}})
        else:
            self._lock({fqn: ratio for fqn, ratio in self.locked.items() if fqn not in names})

    def _movable(self, ids: Iterable[str]) -> list[LayerRow]:
        asked = set(ids)
        return [row for row in self.facts.rows if row.id in asked and not row.fixed]

    def lock(self, pattern: str, share: Lock | None) -> None:
        """Lock all tensors that a pattern means, and search around them.

        Args:
            pattern: a name, a glob or a regular expression, as `Constraints.locked` has it.
            share: of each; "free" lets them go, None keeps the present shares. Neither searches.

        Raises:
            PlanError: it matches no tensor, with what is near; or one that cannot be trained in part.
        """
        profile = self.facts.profile
        names = matching([tensor.fqn for tensor in profile.tensors], pattern)
        if share == "free" or share is None:
            self._lock_shares(names, on=share is None)
        else:
            ratio = 0.0 if share == "frozen" else share
            for fqn in names if ratio else ():
                profile.share(profile.index(fqn), ratio)
            self.locked = {**self.locked, **dict.fromkeys(names, ratio)}
            self._search(final=True)

    def unlock_all(self) -> None:
        self._lock({})

    def _lock(self, locked: Mapping[str, float]) -> None:
        """Lock these and no others; the plan stays as it is."""
        self.locked = dict(locked)
        if self._history.now is not None:
            self._history.settle(self._history.now._replace(locked=dict(locked)))
            self._show_history()

    @property
    def asked(self) -> Constraints:
        """All that a search keeps to beside the budget."""
        return self.rules.with_locked(dict(sorted(self.locked.items())))

    def set_rules(self, **rules: Any) -> None:
        """Change some of what a search keeps to (`whole_blocks`, `max_tensors`, …), and search.

        Raises:
            PlanError: a value that none can be.
        """
        self.rules = Constraints(**{**dict(self.rules), **rules})
        self._search(final=True)

    def take(self, plan: Plan, origin: str = "imported") -> None:
        """Make a plan the current one, with exactly the channels it names.

        Raises:
            PlanError: it was made for another model.
        """
        choice = self.facts.profile.ratios_of(plan)
        self._drop_searches()
        self._adopt(self.facts.predict(choice), plan, origin, self.locked)

    def take_with_budget(self, plan: Plan, key: str) -> None:
        """Take a plan of the frontier, and make what it needs of `key` the budget."""
        self.budget = replace(Budget(), **{key: plan.predicted[key]})
        self.take(plan, "frontier")

    def import_plan(self, text: str, where: str) -> None:
        """Take a plan file's text.

        Raises:
            PlanError: it is no plan, or was made for another model.
        """
        self.take(Plan.from_json(text, where), "imported")

    def undo(self) -> None:
        """Back to the plan before, or, while one is searched or cannot be found, to the one that stands."""
        stands = self._history.now
        asked = self.problem is not None or self._searching
        self._return_to(stands if asked and stands else self._history.back())

    def redo(self) -> None:
        self._return_to(self._history.forward())

    # ------------------------------------------------------------------ how

    def _search(self, final: bool) -> None:
        facts, budget, asked = self.facts, self.budget, self.asked
        self._searches += 1
        self._searching, number = final, self._searches
        if final and self._history.now is not None:
            self.param.update(can_undo=True, can_redo=False)

        def compute() -> tuple[Prediction, Plan]:
            plan = facts.search(budget, asked)
            return facts.predict(facts.profile.ratios_of(plan)), plan

        def then(answer: Any) -> None:
            if self.facts is not facts or number <= self._dropped:
                return  # another study was opened meanwhile, or another plan was chosen
            if number == self._searches:
                self._searching = None
            if isinstance(answer, PockError):
                self.param.update(problem=answer, can_undo=self.plan is not None)
            elif final:
                prediction, plan = answer
                self._adopt(prediction, plan, "search", self.locked)
            else:
                self.param.update(prediction=answer[0], problem=None, origin="search")

        self._run(compute, then)

    def _plan_of(self, prediction: Prediction, made_by: str) -> Plan | PlanError:
        if not prediction.choice:
            return PlanError("Nothing is trained. Raise the share of at least one tensor.")
        plan = self.facts.profile.plan(prediction.choice, {"made_by": made_by})
        return plan.model_copy(update={"predicted": {**plan.predicted, **prediction.forecast.figures}})

    def _adopt(
        self, prediction: Prediction, plan: Plan | PlanError, origin: str, locked: Mapping[str, float]
    ) -> None:
        """A finished edit."""
        if isinstance(plan, PlanError):
            self.param.update(prediction=prediction, locked=dict(locked), problem=plan)
            return
        snapshot = Snapshot(self.budget, dict(locked), self.rules, plan, origin)
        self._history.settle(snapshot)
        self._show(snapshot, prediction)

    def _drop_searches(self) -> None:
        self._dropped, self._searching = self._searches, None

    def _return_to(self, snapshot: Snapshot | None) -> None:
        if snapshot is not None:
            self._drop_searches()
            self._show(snapshot, self.facts.predict(self.facts.profile.ratios_of(snapshot.plan)))

    def _show(self, snapshot: Snapshot, prediction: Prediction) -> None:
        self.param.update(
            budget=snapshot.budget, locked=dict(snapshot.locked), rules=snapshot.rules, plan=snapshot.plan,
            origin=snapshot.origin, prediction=prediction, problem=None,
            can_undo=self._history.can_undo, can_redo=self._history.can_redo,
        )  # fmt: skip

    def _show_history(self) -> None:
        self.param.update(can_undo=self._history.can_undo, can_redo=self._history.can_redo)


def _model(facts: Facts) -> list[tuple[str, tuple[int, ...]]]:
    return [(tensor.fqn, tuple(tensor.shape)) for tensor in facts.profile.tensors]
