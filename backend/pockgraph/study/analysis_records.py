"""What a study says of its last analysis: gains, forecasts, scores, what was measured, and how all agree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..contribution import Contribution, Measurement, tabulate
from ..contribution.agreement import Agreement, agreements
from ..contribution.coverage import Coverage, coverage_of
from ..contribution.scores import Scores
from ..errors import PlanError, StudyError, require, suggest
from ..plan import Plan
from .kept_records import KeptRecords
from .records import NAMES

if TYPE_CHECKING:
    from ..contribution.forecast import Forecast, Forecaster, TrainedPlan
    from .trained_plans import Conditions, TrainedAlike

PROBE = "Run the analysis again: pockui analyze MODULE:TASK --study FILE --mode probe."


class AnalysisRecords(KeptRecords):
    """What `Study` says of an analysis."""

    _forecaster: tuple[int, Forecaster] | None = None  # by the revision of the runs

    @property
    def contribution(self) -> Contribution:
        """What the measurements of the last analysis say so far.

        Raises:
            StudyError: nothing was measured yet.
        """
        return self._last_analysis()[1]

    @property
    def has_contribution(self) -> bool:
        """Whether the head alone was measured to its end, beside which the others count."""
        return self._cached("measurements", self._tabulate) is not None

    def _last_analysis(self) -> tuple[int, Contribution]:
        """The number of the analysis that was used last and has measured something, and what it says."""
        found = self._cached("measurements", self._tabulate)
        if found is None:
            raise StudyError(
                f"The study {self.path} has no contribution yet: nothing was measured to its end. Analyse "
                f"it: pockui analyze MODULE:TASK --study {self.path} (in Python, Study.analyze)."
            )
        return found

    def _tabulate(self) -> tuple[int, Contribution] | None:
        for row in self._store.read("SELECT * FROM analyses ORDER BY used DESC"):
            with self._store.decoding(f"the head or biases of analysis {row['id']}"):
                head, order = (NAMES.validate_json(row[c]) for c in ("head", "bias_order"))
                found = tabulate(self._measurements(row["id"]), head, order)
            if found is not None:
                return row["id"], found
        return None

    @property
    def forecaster(self) -> Forecaster:
        """Forecasts from the last analysis, and from the plans that were trained (`trained_plans.py`).

        Raises:
            StudyError: nothing was measured yet.
        """
        from ..contribution.forecast import Forecaster

        analysis, contribution = self._last_analysis()
        revision = self._store.revision("runs")
        with self._lock:
            known = self._forecaster
            if known is None or known[1].contribution is not contribution or known[0] != revision:
                trained = self._trained_plans(analysis, contribution)
                same = known is not None and known[1].contribution is contribution
                if known is not None and same and known[1].trained == trained:
                    known = revision, known[1]  # a run that goes on says nothing yet
                else:
                    known = revision, Forecaster(contribution, trained)
                self._forecaster = known
            return known[1]

    def _trained_plans(self, analysis: int, contribution: Contribution) -> tuple[TrainedPlan, ...]:
        from .trained_plans import trained_plans

        measured = self._measurements(analysis)
        return trained_plans(self.runs(), self._conditions(analysis), contribution, measured)

    def trained_alike(self) -> tuple[tuple[TrainedAlike, ...], int]:
        """The plans that were trained as the last analysis trained, and how many others were otherwise.

        Raises:
            StudyError: nothing was measured yet.
        """
        from .trained_plans import trained_alike

        analysis, contribution = self._last_analysis()
        return trained_alike(self.runs(), self._conditions(analysis), contribution)

    @property
    def conditions(self) -> Conditions:
        """How the last analysis trained, which is what forecasts are of.

        Raises:
            StudyError: nothing was measured yet.
        """
        return self._conditions(self._last_analysis()[0])

    def _conditions(self, analysis: int) -> Conditions:
        from .trained_plans import Conditions

        settings = self._store.read("SELECT settings FROM analyses WHERE id = ?", analysis)[0][0]
        with self._store.decoding(f"analysis {analysis}"):
            return Conditions.of(settings, self._measurements(analysis), self.facts["optimizer"])

    def forecast(self, plan: Plan | str | Mapping[str, float]) -> Forecast:
        """The validation metric that a plan is expected to reach, with its interval.

        For one training as the last analysis trains: the same steps and rate, another seed.

        Args:
            plan: or the name of one that the study keeps, or FQN -> trained ratio.

        Raises:
            StudyError: nothing was measured yet, or there is no plan of that name.
            PlanError: the plan is another model's.
        """
        from .trained_plans import measured_ratios

        require(StudyError, "plan", plan, (Plan, str, Mapping), "Pass a Plan, its name, or ratios by name.")
        if isinstance(plan, str):
            plan = self.plan(plan)
        forecaster = self.forecaster
        if isinstance(plan, Plan):
            plan.check_fits({fqn: tuple(shape) for fqn, shape in self.facts["model"].items()})
            plan = measured_ratios(plan, forecaster.contribution)
        for fqn, ratio in plan.items():
            if fqn not in self.facts["model"]:
                raise PlanError(f"The model has no tensor {fqn!r}.{suggest(fqn, self.facts['model'])}")
            if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
                raise PlanError(f"{fqn!r} has ratio {str(ratio)[:40]!r}. Pass a number between 0 and 1.")
        return forecaster.forecast(plan)

    def measurements(self) -> list[Measurement]:
        """The last analysis's, planned ones included; those of learning rates first."""
        rows = self._store.read("SELECT id FROM analyses ORDER BY used DESC LIMIT 1")
        return self._measurements(rows[0]["id"]) if rows else []

    def _measurements(self, analysis: int) -> list[Measurement]:
        rows = self._store.read(
            "SELECT * FROM measurements WHERE analysis = ? ORDER BY purpose DESC, id", analysis
        )
        return [Measurement.of_row(r) for r in rows]

    def progress(self) -> tuple[int, int]:
        """(finished, planned in all) measurements of the last analysis."""
        status = [m.status for m in self.measurements()]
        return sum(s in ("done", "diverged") for s in status), len(status)

    @property
    def scores(self) -> Scores:
        """What gradients said of each candidate, of the analysis that was used last.

        Raises:
            StudyError: it was not probed.
        """
        found = self._scores()
        if found is None:
            raise StudyError(
                f"The study {self.path} has no scores: its last analysis measured all it was asked for "
                f"without probing. Probe it: pockui analyze MODULE:TASK --study {self.path} --mode probe "
                "(in Python, Study.analyze with mode='probe')."
            )
        return found

    def _scores(self) -> Scores | None:
        return self._cached("measurements", self._read_scores, key="scores")

    def _read_scores(self) -> Scores | None:
        if not self._store.has_table("probes"):
            return None
        rows = self._store.read(
            "SELECT p.json FROM analyses a LEFT JOIN probes p ON p.analysis = a.id "
            "ORDER BY a.used DESC LIMIT 1"
        )
        if not rows or rows[0]["json"] is None:
            return None
        with self._store.decoding("the probe of the last analysis", PROBE):
            return Scores.from_json(rows[0]["json"])

    @property
    def coverage(self) -> Coverage:
        """What the last analysis measured and what it did not, and why; empty where there was none."""
        rows = self._store.read("SELECT * FROM analyses ORDER BY used DESC LIMIT 1")
        if not rows:
            return Coverage()
        row = dict(rows[0])
        with self._store.decoding(f"analysis {row['id']}"):
            head = set(json.loads(row["head"]))
            ended = json.loads(row.get("ended") or "{}")
            model = self.facts["model"]
            weights = [fqn for fqn, shape in model.items() if len(shape) > 1 and fqn not in head]
            return coverage_of(weights, self.measurements(), self._scores(), ended)

    def agreements(self) -> tuple[Agreement, ...]:
        """How the ranks of scores agree with those of measured gains, one for each kind of score.

        Empty where the last analysis has too little of either.
        """
        scores = self._scores()
        try:
            return agreements(scores, self.contribution) if scores is not None else ()
        except StudyError:  # nothing was measured
            return ()
