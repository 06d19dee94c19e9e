"""What a study says, as a page needs it: read once, and shared by all sessions that look at the same file."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pockgraph.contribution import Contribution
from pockgraph.contribution.forecast import Forecaster
from pockgraph.errors import PlanError, StudyError
from pockgraph.plan import Budget, Plan, Trained
from pockgraph.profile import Profile
from pockgraph.search import Constraints, frontier, search
from pockgraph.study import Study
from pockgraph.study.trained_plans import Conditions, TrainedAlike

from .info.costs import COSTS
from .info.format import MetricScale
from .info.layers import LayerRow, layer_rows
from .info.measured_points import MeasuredPoint, measured_points
from .info.predictions import Prediction

FRONTIER_PLANS = 20
KEPT_MARKS = 8
SEARCHES_KEPT = 1000
FRONTIERS_KEPT = 50
NOTHING_ASKED = Constraints()


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
        baselines: plans that others would take, by name, to compare with.
        conditions: how the analysis trained, which is what forecasts are of.
        trained: plans that were trained in that way. others: how many were trained otherwise.
        plans: those that the study keeps, by name. kept: the newest of them that are none of the above.
        device: whose costs these are; None: nobody's. devices: those that the study has.
    """

    path: Path
    name: str
    reference: str
    profile: Profile
    contribution: Contribution
    forecaster: Forecaster
    conditions: Conditions
    rows: tuple[LayerRow, ...]
    known_plans: Mapping[str, Prediction]
    progress: tuple[int, int] = (0, 0)
    coverage: str = ""
    device: str | None = None
    devices: tuple[str, ...] = ()
    baselines: Mapping[str, Prediction] = field(default_factory=dict)
    trained: tuple[TrainedAlike, ...] = ()
    others: int = 0
    plans: Mapping[str, Plan] = field(default_factory=dict)
    kept: Mapping[str, Prediction] = field(default_factory=dict)
    _frontiers: dict[tuple[str, str], list[Plan]] = field(default_factory=dict)
    _measured: dict[str, tuple[MeasuredPoint, ...]] = field(default_factory=dict)
    _searched: dict[Any, Plan] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def frontier(self, by: str, asked: Constraints = NOTHING_ASKED) -> list[Plan]:
        """The best plan for each of many budgets, by one cost; computed once for all sessions.

        Args:
            asked: what all of them keep to.

        Raises:
            BudgetError: the cost is not known, or nothing can be kept to.
        """
        key = by, asked.model_dump_json()
        with self._lock:
            if key not in self._frontiers:
                found = frontier(self.profile, self.forecaster, FRONTIER_PLANS, by=by, constraints=asked)
                while len(self._frontiers) >= FRONTIERS_KEPT:
                    del self._frontiers[next(iter(self._frontiers))]
                self._frontiers[key] = found
            return self._frontiers[key]

    def measured(self, by: str) -> tuple[MeasuredPoint, ...]:
        """The plans that were trained as the analysis trains, over one cost."""
        if by not in self._measured:
            self._measured[by] = measured_points(
                self.trained, self.forecaster, self.profile, COSTS[by], self.metric
            )
        return self._measured[by]

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
    def marks(self) -> dict[str, Prediction]:
        """Plans that stand in the frontier's chart by name."""
        return {**self.known_plans, **self.baselines, **self.kept}

    @property
    def metric(self) -> MetricScale:
        return MetricScale(self.contribution.baseline.mean)

    def predict(self, choice: Mapping[str, float]) -> Prediction:
        """The predicted figures of a choice of tensors."""
        kept = {fqn: ratio for fqn, ratio in choice.items() if ratio}
        figures, memory = self.profile.figures(kept), self.profile.process_memory(kept)
        return Prediction(kept, figures, self.forecaster.forecast(kept), memory)

    def plan_of(self, tensors: Mapping[str, Trained], made_by: str) -> Plan:
        """A plan with exactly these channels, and what is predicted of it.

        Raises:
            PlanError: it trains nothing.
        """
        if not tensors:
            raise PlanError("Nothing is trained. Raise the share of at least one tensor.")
        count = {tensor.fqn: tensor.channels or 1 for tensor in self.profile.tensors}
        choice = {k: len(t.channels) / count[k] if t.channels else 1.0 for k, t in tensors.items()}
        plan = self.profile.plan(choice, {"made_by": made_by})
        predicted = {**plan.predicted, **self.forecaster.forecast(choice).figures}
        return plan.model_copy(update={"tensors": dict(tensors), "predicted": predicted})

    def foretold(self, plan: Plan) -> Plan:
        """The same plan with what is predicted of it by these facts."""
        predicted = self.predict(self.profile.ratios_of(plan))
        costs = {key: float(v) for key, v in asdict(predicted.figures).items() if v is not None}
        return plan.model_copy(
            update={"predicted": {**plan.predicted, **costs, **predicted.forecast.figures}}
        )

    @property
    def opening_budget(self) -> Budget:
        """Half way between the head's need and the best plan's."""
        low, high = (self.known_plans[n].figures.peak_bytes for n in ("Head", "Best"))
        return Budget(peak_bytes=(low + high) // 2)

    @property
    def best_row(self) -> str:
        """Id of the row with the largest gain."""
        return max(self.rows, key=lambda r: r.best).id

    def row(self, id: str) -> LayerRow:
        return next(r for r in self.rows if r.id == id)


@dataclass
class _Known:
    """A study that was opened, and what it said when it was last read."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    study: Study | None = None
    facts: dict[str | None, Facts] = field(default_factory=dict)
    plans: Mapping[str, Plan] = field(default_factory=dict)
    trained: tuple[tuple[TrainedAlike, ...], int] = ((), 0)
    read_of: tuple[int, Contribution] | None = None  # revision and measurements that these two are of

    def read_kept(self) -> None:
        """What the study keeps now; read again only after it changed."""
        assert self.study is not None
        revision, contribution = self.study.kept_revision, self.study.contribution
        known = self.read_of
        if known is not None and known[0] == revision and known[1] is contribution:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of plans that cannot be read
            self.plans, self.trained = self.study.plans(), self.study.trained_alike()
        self.read_of = revision, contribution


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
        known.read_kept()
        trained, others = known.trained
        told = facts.device, facts.devices, facts.trained, facts.others, facts.plans
        if told != (device, devices, trained, others, known.plans):
            facts = replace(
                facts, device=device, devices=devices, trained=trained, others=others, plans=known.plans,
                kept=_kept(facts, known.plans), _measured={},
            )  # fmt: skip
        known.facts = {name: known.facts[name] for name in known.facts if name in devices} | {device: facts}
        return facts


def _facts(where: Path, study: Study, profile: Profile, forecaster: Forecaster) -> Facts:
    contribution = forecaster.contribution
    rows = layer_rows(profile, contribution, forecaster.gains)
    made = Facts(
        where, study.name, study.reference, profile, contribution, forecaster, study.conditions, rows, {},
        study.progress(), study.coverage.text,
    )  # fmt: skip
    full = {row.fqn: 1.0 for row in profile.tensors}
    best = profile.ratios_of(search(profile, forecaster, Budget()))
    known = {"Head": profile.presets["head"], "Preset": profile.presets["preset"], "Best": best, "Full": full}
    biases = {**profile.presets["head"], **dict.fromkeys(contribution.bias_order, 1.0)}
    baselines = {"Biases": made.predict(biases)} if contribution.bias_order else {}
    return replace(
        made,
        known_plans={name: made.predict(choice) for name, choice in known.items()},
        baselines=baselines,
    )


def _kept(facts: Facts, plans: Mapping[str, Plan]) -> dict[str, Prediction]:
    """The newest plans that a study keeps, without those that stand in the frontier's chart anyway, and those
    of single attention heads, whose costs no ratios tell.
    """
    known = {**facts.known_plans, **facts.baselines}
    shown = [p.choice for p in known.values()]
    found: dict[str, Prediction] = {}
    for name, plan in reversed([*plans.items()]):
        try:
            prediction = facts.predict(facts.profile.ratios_of(plan))
        except PlanError:
            continue
        if prediction.choice not in shown and len(found) < KEPT_MARKS:
            shown.append(prediction.choice)
            found[f"{name} (kept)" if name in known else name] = prediction
    return found
