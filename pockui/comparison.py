"""Which runs and plans of a study a session compares, and with which baseline. No Panel here."""

from __future__ import annotations

import param

from pockgraph.errors import PlanError, PockError
from pockgraph.plan import Plan
from pockgraph.study import Study

from .facts import Facts
from .info.predictions import Prediction
from .info.records import CURRENT, Record, current_record, plan_record, run_record
from .kept import Kept, read_kept
from .state import State

FIRST_CHOSEN = 2  # runs that are chosen before anybody has


class Comparison(param.Parameterized):
    """The records, those that are chosen, and the baseline."""

    records = param.List(default=[], doc="Record of the current plan, of each run and each kept plan.")
    chosen = param.List(default=[], doc="Ids of the records that are compared.")
    baseline = param.String(doc="Id of the record that others are compared with; empty: none.")
    smoothing = param.Number(default=0.6, bounds=(0, 0.99), doc="Of the loss curves.")

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state
        self._kept: Kept | None = None
        self._predicted: dict[object, Prediction | None] = {}
        self._facts: Facts | None = None

    def read(self) -> None:
        """Read the study's runs and plans again, if it has changed."""
        s = self._state
        if not s.ready or s.plan is None or s.prediction is None:
            return
        try:
            kept = read_kept(s.facts.path)
        except PockError:
            kept = Kept()
        if s.facts is not self._facts:
            self._facts, self._predicted = s.facts, {}
        records = [current_record(s.plan, s.facts.predict(s.facts.profile.ratios_of(s.plan)))]
        records += [run_record(run, self._predict(run.plan)) for run in reversed(kept.runs)]
        records += [
            plan_record(name, plan, self._predict(plan)) for name, plan in [*kept.plans.items()][::-1]
        ]
        ids = [record.id for record in records]
        chosen = [id for id in self.chosen if id in ids]
        if self._kept is None:
            chosen = [CURRENT, *(id for id in ids if id.startswith("run:"))][: 1 + FIRST_CHOSEN]
        self._kept = kept
        self.param.update(
            records=records, chosen=chosen, baseline=self.baseline if self.baseline in ids else ""
        )

    def _predict(self, plan: Plan) -> Prediction | None:
        """Of a plan of the study; None for one that this profile cannot cost."""
        key = frozenset(plan.tensors.items())
        if key not in self._predicted:
            facts = self._state.facts
            try:
                self._predicted[key] = facts.predict(facts.profile.ratios_of(plan))
            except PlanError:
                self._predicted[key] = None
        return self._predicted[key]

    @property
    def compared(self) -> list[Record]:
        """The chosen records, the baseline first."""
        chosen = [r for r in self.records if r.id in self.chosen or r.id == self.baseline]
        return sorted(chosen, key=lambda r: r.id != self.baseline)

    def choose(self, id: str, on: bool) -> None:
        self.chosen = [*(i for i in self.chosen if i != id), *([id] if on else [])]

    def pin(self, id: str) -> None:
        """Make a record the baseline, or none when it is."""
        self.baseline = "" if id == self.baseline else id

    def open(self, id: str) -> None:
        """Make a record's plan the current one.

        Raises:
            PlanError: it was made for another model.
        """
        record = next((r for r in self.records if r.id == id), None)
        if record is not None:
            self._state.take(record.plan, "kept")

    def keep(self, name: str) -> None:
        """Keep the current plan in the study under a name.

        Raises:
            PockError: there is no plan or name, a plan has that name, or the study cannot be written.
        """
        plan, name = self._state.plan, name.strip()
        if plan is None:
            raise PlanError("There is no plan yet. Keep it when its figures are there.")
        if not name:
            raise PlanError("Type a name for the plan, such as small.")
        with Study(self._state.facts.path) as study:
            if name in study.plans():
                raise PlanError(f"The study keeps a plan {name!r} already. Choose another name.")
            study.save_plan(name, plan)
        self.read()
        self.choose(f"plan:{name}", True)
