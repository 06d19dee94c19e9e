"""What one session looks at and has chosen. No Panel here: widgets and tests use the same store."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import param

from pockgraph.contribution import Contribution
from pockgraph.contribution.forecast import Forecaster
from pockgraph.errors import PlanError, PockError, StudyError
from pockgraph.plan import Budget, Plan
from pockgraph.profile import Profile
from pockgraph.search import Constraints, frontier, search
from pockgraph.search.constraints import Lock, matching
from pockgraph.study import Study

from .info.costs import COSTS
from .info.format import MetricScale
from .info.layers import LayerRow, chosen, layer_rows, ratios_of
from .info.predictions import Prediction, over_budget

Then = Callable[[Any], None]
Executor = Callable[[Callable[[], Any], Then], None]
UNDO_STEPS = 100
FRONTIER_PLANS = 20
SEARCHES_KEPT = 1000


def run_now(compute: Callable[[], Any], then: Then) -> None:
    """Compute at once; a PockError is an answer, too."""
    try:
        answer = compute()
    except PockError as e:
        answer = e
    then(answer)


@dataclass(frozen=True, eq=False)
class Facts:
    """All a page needs of a study. Sessions share it, nobody changes it.

    Attributes:
        path: the study's file.
        name: the task's.
        reference: `module:task` that makes the task again, or empty.
        rows: one per tensor, and one for the last biases.
        known_plans: by name, cheapest first: the head alone, the paper's preset, the best
            without a limit, everything.
        progress: measurements that are finished, and planned in all.
        coverage: what was measured and what was not, in sentences.
        device: whose costs these are; None: nobody's. devices: those that the study has.
    """

    path: Path
    name: str
    reference: str
    profile: Profile
    contribution: Contribution
    forecaster: Forecaster
    rows: tuple[LayerRow, ...]
    known_plans: Mapping[str, Prediction]
    progress: tuple[int, int] = (0, 0)
    coverage: str = ""
    device: str | None = None
    devices: tuple[str, ...] = ()
    _frontiers: dict[str, list[Plan]] = field(default_factory=dict)
    _searched: dict[Any, Plan] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def frontier(self, by: str) -> list[Plan]:
        """The best plan for each of many budgets, by one cost; computed once for all sessions.

        Raises:
            BudgetError: the cost is not known.
        """
        with self._lock:
            if by not in self._frontiers:
                self._frontiers[by] = frontier(self.profile, self.forecaster, FRONTIER_PLANS, by=by)
            return self._frontiers[by]

    def search(self, budget: Budget, asked: Constraints) -> Plan:
        """The best plan for a budget; what one session asked is known to the next.

        Raises:
            BudgetError: no plan meets it.
        """
        key = budget, asked.model_dump_json()
        if key not in self._searched:
            plan = search(self.profile, self.forecaster, budget, constraints=asked)
            if len(self._searched) >= SEARCHES_KEPT:
                self._searched.clear()
            self._searched[key] = plan
        return self._searched[key]

    @property
    def metric(self) -> MetricScale:
        return MetricScale(self.contribution.baseline.mean)

    def predict(self, choice: Mapping[str, float]) -> Prediction:
        """The predicted figures of a choice of tensors."""
        kept = {fqn: ratio for fqn, ratio in choice.items() if ratio}
        return Prediction(kept, self.profile.figures(kept), self.forecaster.forecast(kept))

    def row(self, id: str) -> LayerRow:
        return next(r for r in self.rows if r.id == id)


@dataclass
class _Known:
    """A study that was opened, and what it said when it was last read."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    study: Study | None = None
    facts: dict[str | None, Facts] = field(default_factory=dict)


_KNOWN: dict[tuple[Path, int], _Known] = {}


def read_facts(path: str | os.PathLike[str], device: str | None = None) -> Facts:
    """What a study knows; read and costed again only after it changed.

    Waits for whoever reads the same file, and for nobody else.

    Args:
        device: whose costs count; the one that the study uses, if left out.

    Raises:
        StudyError: no study there, nothing was measured yet, or it has no such device.
    """
    where = Path(path).resolve()
    if where.exists() and not where.is_file():
        raise StudyError(f"{where} is no study: it is no regular file. Choose another.")
    known = _KNOWN.setdefault((where, where.stat().st_ino if where.exists() else 0), _Known())
    with known.lock:
        study = known.study = known.study or Study(where)
        device = device or study.used_device
        profile, forecaster = study.profile_on(device), study.forecaster
        devices = tuple(study.devices())
        facts = known.facts.get(device)
        if facts is None or facts.profile is not profile or facts.forecaster is not forecaster:
            facts = _facts(where, study, profile, forecaster)
        if (facts.device, facts.devices) != (device, devices):
            facts = replace(facts, device=device, devices=devices)
        known.facts = {name: known.facts[name] for name in known.facts if name in devices} | {device: facts}
        return facts


def _facts(where: Path, study: Study, profile: Profile, forecaster: Forecaster) -> Facts:
    contribution = forecaster.contribution
    rows = layer_rows(profile, contribution)
    made = Facts(
        where, study.name, study.reference, profile, contribution, forecaster, rows, {},
        study.progress(), study.coverage.text,
    )  # fmt: skip
    full = {row.fqn: 1.0 for row in profile.tensors}
    best = profile.ratios_of(search(profile, forecaster, Budget()))
    known = {"Head": profile.presets["head"], "Preset": profile.presets["preset"], "Best": best, "Full": full}
    return replace(made, known_plans={name: made.predict(choice) for name, choice in known.items()})


class _Snapshot(NamedTuple):
    """What undo brings back."""

    budget: Budget
    locked: Mapping[str, float]
    rules: Constraints
    plan: Plan
    origin: str


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
        default="search", doc="search, edited, frontier or imported: how the plan came about."
    )
    selected = param.String(doc="Id of the row whose curves are shown.")
    cost = param.Selector(default="peak_bytes", objects=list(COSTS), doc="Which cost the views compare.")
    can_undo = param.Boolean(default=False)
    can_redo = param.Boolean(default=False)
    dark = param.Boolean(default=False, doc="Whether the page is dark; charts follow.")

    def __init__(self, run: Executor = run_now, **params: Any) -> None:
        """Args:
        run: computes plans: calls its second argument with what its first returns, or with the
            PockError that raises. A server passes one that works in a thread.
        """
        super().__init__(**params)
        self._run = run
        self._past: list[_Snapshot] = []
        self._future: list[_Snapshot] = []

    # ------------------------------------------------------------------ opening

    def open(self, path: str | os.PathLike[str]) -> None:
        """Open a study; the budget starts half way between the head's need and the best plan's."""
        try:
            self.show(read_facts(path))
        except PockError as e:
            self.param.update(facts=e, plan=None, prediction=None)

    def show(self, facts: Facts) -> None:
        """Start over with these facts."""
        self._past, self._future = [], []
        low, high = (facts.known_plans[n].figures.peak_bytes for n in ("Head", "Best"))
        best = max(facts.rows, key=lambda r: r.best)
        self.param.update(
            facts=facts, budget=Budget(peak_bytes=(low + high) // 2), locked={}, rules=Constraints(),
            plan=None, prediction=None, problem=None, origin="search", selected=best.id,
            can_undo=False, can_redo=False,
        )  # fmt: skip
        self._search(final=True)

    def use_device(self, name: str) -> None:
        """Show what the plan costs on another device; limits of its time and process are lifted."""
        try:
            facts = read_facts(self.facts.path, name)
        except PockError as e:
            self.problem = e
            return
        self._past, self._future = [], []
        budget, prediction, plan = replace(self.budget, step_ms=None, process_bytes=None), None, self.plan
        if plan is not None:
            prediction = facts.predict(facts.profile.ratios_of(plan))
            costs = {k: float(v) for k, v in asdict(prediction.figures).items() if v is not None}
            plan = plan.model_copy(update={"predicted": {**plan.predicted, **costs}})
            self._settled = _Snapshot(budget, dict(self.locked), self.rules, plan, self.origin)
        self.param.update(
            facts=facts, budget=budget, prediction=prediction, plan=plan, problem=None, can_undo=False,
            can_redo=False,
        )  # fmt: skip

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

    def search_again(self) -> None:
        """The best plan for the budget around what is locked, after edits by hand."""
        self._search(final=True)

    def set_ratio(self, id: str, ratio: float, final: bool = True) -> None:
        """Set the trained share of a row by hand and lock it; everything else stays as it is."""
        if self.prediction is None:
            return
        change = chosen(id, ratio, self.facts.contribution)
        choice = {**self.prediction.choice, **change}
        prediction = self.facts.predict(choice)
        if not final:
            self.prediction = prediction
            return
        self._adopt(prediction, self._plan_of(prediction, "edited"), "edited", {**self.locked, **change})

    def set_lock(self, id: str, on: bool) -> None:
        """Keep the present share of a row in searches, or let it go."""
        ids = list(chosen(id, 0, self.facts.contribution))
        if on:
            choice = self.prediction.choice if self.prediction else {}
            self.locked = {**self.locked, **{fqn: choice.get(fqn, 0.0) for fqn in ids}}
        else:
            self.locked = {fqn: ratio for fqn, ratio in self.locked.items() if fqn not in ids}

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
        if share == "free":
            self.locked = {fqn: ratio for fqn, ratio in self.locked.items() if fqn not in names}
        elif share is None:
            choice = self.prediction.choice if self.prediction else {}
            self.locked = {**self.locked, **{fqn: choice.get(fqn, 0.0) for fqn in names}}
        else:
            ratio = 0.0 if share == "frozen" else share
            for fqn in names if ratio else ():
                profile.share(profile.index(fqn), ratio)
            self.locked = {**self.locked, **dict.fromkeys(names, ratio)}
            self._search(final=True)

    def unlock_all(self) -> None:
        self.locked = {}

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
        """Back to the plan before; after a request that could not be met, to the plan that stands."""
        if self.problem is not None and self._settled is not None:
            self._show(self._settled, self.facts.predict(self.facts.profile.ratios_of(self._settled.plan)))
        else:
            self._travel(self._past, self._future)

    def redo(self) -> None:
        self._travel(self._future, self._past)

    # ------------------------------------------------------------------ how

    def _search(self, final: bool) -> None:
        facts, budget, asked = self.facts, self.budget, self.asked

        def compute() -> tuple[Prediction, Plan]:
            plan = facts.search(budget, asked)
            return facts.predict(facts.profile.ratios_of(plan)), plan

        def then(answer: Any) -> None:
            if self.facts is not facts:
                return  # another study was opened meanwhile
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
        if self.plan is not None and self._settled is not None:
            self._past = [*self._past, self._settled][-UNDO_STEPS:]
            self._future = []
        self._show(_Snapshot(self.budget, dict(locked), self.rules, plan, origin), prediction)

    _settled: _Snapshot | None = None

    def _show(self, snapshot: _Snapshot, prediction: Prediction) -> None:
        self._settled = snapshot
        self.param.update(
            budget=snapshot.budget, locked=dict(snapshot.locked), rules=snapshot.rules, plan=snapshot.plan,
            origin=snapshot.origin, prediction=prediction, problem=None,
            can_undo=bool(self._past), can_redo=bool(self._future),
        )  # fmt: skip

    def _travel(self, source: list[_Snapshot], target: list[_Snapshot]) -> None:
        if not source or self._settled is None:
            return
        target.append(self._settled)
        snapshot = source.pop()
        self._show(snapshot, self.facts.predict(self.facts.profile.ratios_of(snapshot.plan)))
