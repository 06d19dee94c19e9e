"""Train a plan for real, as contribution was measured, and compare its gain with the forecast.

The same batches, fresh heads, steps, rate and validation data as the study's last analysis, and the same code
(`contribution/finetuning.py`): what differs from a measurement is the plan alone. The test data is not read.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..contribution import Progress
from ..contribution.analysis import Cancelled
from ..contribution.compiled_finetuning import CompiledBackend
from ..contribution.data import Data, fresh_values, with_validation
from ..contribution.eager_finetuning import EagerBackend
from ..contribution.finetuning import Finetuner, FinetuningBackend, finetune
from ..contribution.forecast import Forecast
from ..contribution.gains import Gain
from ..errors import StudyError
from ..notebook_html import summary
from ..parity.gradients import check_graph
from ..passes.batch_limits import limits_of
from ..plan import Plan
from .data_splits import splits_of
from .recorder import Recorder, recorded
from .records import Run
from .trained_plans import Conditions

if TYPE_CHECKING:
    from .study import Study


@dataclass(frozen=True, repr=False)
class Verification:
    """A plan's forecast beside what it reached.

    Attributes:
        plan: what was trained.
        forecast: what the study expected before it.
        measured: gain of the validation metric over the head alone, both with the same seed and batches.
        head: metric of the head alone.
        runs: one a seed, as the study keeps them.
    """

    plan: Plan
    forecast: Forecast
    measured: Gain
    head: Gain
    runs: tuple[Run, ...]

    @property
    def predicted_gain(self) -> float:
        """Gain over the head alone that was expected."""
        return self.forecast.gain

    @property
    def difference(self) -> float:
        """Measured minus predicted: negative where the prediction promised too much."""
        return self.measured.mean - self.predicted_gain

    def __repr__(self) -> str:
        f, reached = self.forecast, self.head.mean + self.measured.mean
        times = "once" if len(self.runs) == 1 else f"{len(self.runs)} times"
        return (
            f"Verification({len(self.plan.tensors)} of {len(self.plan.model)} tensors, trained {times}: "
            f"metric {reached:.4f}, forecast {f.metric:.4f} from {f.low:.4f} to {f.high:.4f})"
        )

    def _repr_html_(self) -> str:
        f = self.forecast
        rows = [("forecast", f"{f.metric:.4f}", f"{f.low:.4f} to {f.high:.4f}", f"{f.gain:+.4f}")]
        rows += [
            (f"measured, seed {r.seed}", f"{r.validation_metric:.4f}", "", f"{r.gain:+.4f}")
            for r in self.runs
            if r.validation_metric is not None and r.gain is not None
        ]
        rows += [("head alone", f"{self.head.mean:.4f}", "", "")]
        return summary(repr(self), ("", "metric", "interval", "gain over the head"), rows)


def checked_seeds(seeds: Sequence[int] | None) -> tuple[int, ...] | None:
    """
    Raises:
        StudyError: they are no seeds.
    """
    if seeds is None:
        return None
    try:
        found = tuple(map(operator.index, seeds))
    except TypeError:
        found = ()
    if not found or len(set(found)) < len(found):
        raise StudyError(
            f"seeds={str(seeds)[:40]!r} must be distinct whole numbers, at least one, as in (0, 1, 2). Pass "
            "those, or leave it out."
        )
    return found


def verify(
    study: Study,
    plan: Plan,
    conditions: Conditions,
    *,
    name: str,
    seeds: tuple[int, ...] | None,
    target: str | None,
    progress: Callable[[Progress], None] | None,
    cancel: Callable[[], bool] | None,
    force: bool,
) -> Verification:
    """Train the plan with each seed; see `Study.verify`."""
    plan = study.graph.prune(plan).plan  # refuses another model's, and has the study's optimizer
    forecast = study.forecast(plan)
    plan = plan.model_copy(update={"predicted": {**plan.predicted, **forecast.figures}})
    if not force:
        check_graph(study.graph)
    seeds = tuple(conditions.heads) if seeds is None else seeds
    trial = _Trial(study, conditions, target or conditions.target, progress, cancel)
    head = dict.fromkeys(study.contribution.head, 1.0)
    head_plan = Plan.of(study.graph, head, provenance={"made_by": "head"})
    heads = dict(conditions.heads) if trial.target == conditions.target else {}
    heads |= trial.known(head_plan, [s for s in seeds if s not in heads])
    missing = [s for s in seeds if s not in heads]
    trial.expect(len(seeds) + len(missing))
    for run in trial.train(head_plan, missing, "head alone", {}, None):
        assert run.validation_metric is not None
        heads[run.seed] = run.validation_metric
    runs = tuple(trial.train(plan, seeds, name, heads, forecast.gain))
    gains = [r.gain for r in runs if r.gain is not None]
    return Verification(plan, forecast, Gain.of(gains), Gain.of(heads[s] for s in seeds), runs)


class _Trial:
    """Trains plans under the conditions of an analysis, and keeps every run."""

    def __init__(
        self,
        study: Study,
        conditions: Conditions,
        target: str,
        progress: Callable[[Progress], None] | None,
        cancel: Callable[[], bool] | None,
    ) -> None:
        self.study, self.conditions, self.target = study, conditions, target
        self._progress, self._cancel = progress, cancel
        self.task = with_validation(study.task)
        graph = study.graph
        self.data = Data(
            self.task,
            conditions.steps,
            conditions.batches,
            limits_of(graph.gradients),
            limits_of(graph.metric),
        )
        self.splits = splits_of(self.task, conditions.batches)
        self._done = self._total = 0
        self._start = time.perf_counter()

    def expect(self, runs: int) -> None:
        """Tell how many runs will come."""
        self._total = runs * (self.conditions.steps + 2 * self.data.validation_count)

    def known(self, plan: Plan, seeds: Sequence[int]) -> dict[int, float]:
        """Seed -> metric of the last run of the same plan under the same conditions, where there is one."""
        c = self.conditions
        wanted = ("verify", "done", c.steps, c.lr, self.target, plan.tensors, self.splits)
        found: dict[int, float] = {}
        for run in self.study.runs() if seeds else ():
            alike = (run.origin, run.status, run.steps, run.lr, run.target, run.plan.tensors, dict(run.data))
            if run.seed in seeds and alike == wanted and run.validation_metric is not None:
                found[run.seed] = run.validation_metric
        return found

    def train(
        self, plan: Plan, seeds: Sequence[int], name: str, heads: Mapping[int, float], predicted: float | None
    ) -> Iterator[Run]:
        """One run a seed.

        Raises:
            NonFiniteLoss: training diverged; the run is kept as failed.
            Cancelled: on request; the run is kept as cancelled.
        """
        if not seeds:
            return
        self._tick(name, 0)
        tuner = self._backend(plan, len(seeds)).prepare(plan)
        try:
            for seed in seeds:
                run = Run(
                    plan, name=f"{name}, seed {seed}", origin="verify", target=self.target, seed=seed,
                    lr=self.conditions.lr, fresh=bool(self.task.fresh), data=self.splits,
                    head_metric=heads.get(seed), predicted_gain=predicted,
                )  # fmt: skip
                with recorded(self.study, run) as kept:
                    self._train(tuner, seed, kept)
                yield kept.run
        finally:
            tuner.close()

    def _train(self, tuner: Finetuner, seed: int, kept: Recorder) -> None:
        fresh = fresh_values(self.task, seed)

        def tick() -> None:
            self._tick(kept.run.name, 1)

        try:
            tuner.reset(fresh)
            before = []
            for values in tuner.evaluate():
                before.append(values)
                tick()
            kept.note(validation_baseline=float(np.concatenate(before).mean(dtype=np.float64)))
            outcome = finetune(_Watched(tuner, kept), fresh, seed, self.conditions.lr, tick)
        except Cancelled:
            kept.note(status="cancelled")
            raise
        kept.note(status="done", validation_metric=outcome.metric)

    def _backend(self, plan: Plan, seeds: int) -> FinetuningBackend:
        if self.target != EagerBackend.target:
            return CompiledBackend(self.study.graph, self.data, self.target)
        # Every batch is used once, so that keeping its activations would not pay.
        return EagerBackend(self.study.graph, self.data, [plan.tensors], seeds, 0)

    def _tick(self, label: str, steps: int) -> None:
        self._done += steps
        if self._cancel is not None and self._cancel():
            raise Cancelled(
                f"The verification was cancelled after {self._done} of {self._total} steps and validation "
                "batches. The study keeps the runs that were finished; call verify again to train anew."
            )
        if self._progress is not None:
            spent = time.perf_counter() - self._start
            left = spent / self._done * (self._total - self._done) if self._done else None
            self._progress(Progress(self._done, self._total, label, left))


class _Watched:
    """A finetuner whose steps a recorder notes."""

    def __init__(self, tuner: Finetuner, kept: Recorder) -> None:
        self.plan, self._tuner, self._kept = tuner.plan, tuner, kept

    def reset(self, fresh: Mapping[str, torch.Tensor]) -> None:
        self._tuner.reset(fresh)

    def train(self, seed: int, lr: float) -> Iterator[float]:
        self._kept.starts()
        for loss in self._tuner.train(seed, lr):
            self._kept.step(loss)
            yield loss

    def evaluate(self) -> Iterator[np.ndarray]:
        return self._tuner.evaluate()

    def close(self) -> None:
        self._tuner.close()
