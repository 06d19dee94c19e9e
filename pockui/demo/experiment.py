"""The demo's comparison: what to train, found automatically, against the ways people choose by hand.

Rules that keep it fair, and that the report repeats:

- Every method has the same batches in the same order, the same fresh head for each seed, the same
  number of steps, the same schedule (cosine to zero), and its learning rate is picked from one grid, on
  the validation split, by the same number of trials. The test split is read once, at the end.
- Time is interleaved: all contenders are processes of their own, asked in turn for a few steps.
- Memory is a process's own peak over its own baseline.
- What was not run, or failed, is a row with its reason.
"""

from __future__ import annotations

import datetime
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

import pockgraph as pg
from pockgraph.contribution.candidates import quick_settings
from pockgraph.errors import PockError
from pockgraph.machine import machine, usable_cores
from pockgraph.measure import MeasureError, artifact_command, batch_file, figures_to_json, measure_interleaved
from pockgraph.profile import MeasuredPlan, Profile
from pockgraph.profile.model_fits import fit_time
from pockgraph.study import Run
from pockgraph.study.data_splits import splits_of

from ..eager import eager_command
from ..project import DEMOS, load_task
from ..versions import versions
from .results import Method, Report, Row, Trial
from .training import (
    CompiledLearner,
    EagerLearner,
    Learner,
    Outcome,
    TrainingHarness,
    choose_rate,
    fresh_head,
)

TUNING_SEED = 1000  # of no final run
BUDGET_SHARE = 0.5
BUDGET_RULE = "half way between the modelled peak of training the head and of training everything"
Progress = Callable[[str, int, int, str], None]

TITLES = {
    "vision": (
        "EfficientNet-Lite0, from ImageNet to handwritten digits",
        "accuracy on 1,000 held-out digits",
    ),
    "text": (
        "MiniLM, from sentence similarity to the sentiment of tweets",
        "accuracy on 2,000 held-out tweets",
    ),
}


@dataclass(frozen=True)
class Settings:
    """How thorough a comparison is.

    Attributes:
        seeds: of the final runs: each draws a head and the order of the batches.
        steps: of a final run; `tuning_steps`: of a trial.
        rates: the grid of learning rates; `validation_batches`: how many judge a trial, None takes all.
        analysis: passed to `Study.analyze`; None takes its quick settings.
        blocks, block_steps: rounds of the interleaved timing, and steps in each.
        eager_methods: methods that plain PyTorch is timed with too; `eager_trains`: those it trains.
        compiled: time `torch.compile` as well.
        equal_memory: search a second plan, within the preset's modelled peak.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 300
    tuning_steps: int = 150
    rates: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.01)
    validation_batches: int | None = None
    analysis: Mapping[str, Any] | None = None
    blocks: int = 8
    block_steps: int = 5
    eager_methods: tuple[str, ...] = ("head", "biases", "preset", "auto", "full")
    eager_trains: tuple[str, ...] = ("full",)
    compiled: bool = True
    equal_memory: bool = True


def settings_for(which: str, quick: bool, seeds: int | None) -> Settings:
    """The settings of a demo: under three minutes on two idle cores if `quick`, else about twenty."""
    if quick:
        return Settings(
            seeds=tuple(range(seeds or 1)), steps=120, tuning_steps=60, rates=(0.001, 0.003, 0.01),
            validation_batches=64, blocks=3, block_steps=4, eager_methods=("auto", "full"), compiled=False,
            equal_memory=False,
        )  # fmt: skip
    chosen = tuple(range(seeds or 3))
    if which == "text":  # a step takes ten times as long as one of vision
        analysis = {"steps": 25, "seeds": (0,), "ratios": (1.0, 0.25), "batches": 32}
        return Settings(
            seeds=chosen, steps=200, tuning_steps=100, rates=(0.001, 0.003, 0.01, 0.03), analysis=analysis
        )
    analysis = {"steps": 40, "seeds": (0,), "ratios": (1.0, 0.25), "batches": 50}
    return Settings(
        seeds=chosen, steps=400, tuning_steps=200, rates=(0.0003, 0.001, 0.003, 0.01), analysis=analysis
    )


class PlannedMethod(NamedTuple):
    """A way of choosing what learns, with the plan it leads to."""

    label: str
    rule: str
    plan: pg.Plan


def run(
    which: str,
    out: Path,
    settings: Settings,
    *,
    quick: bool,
    command: str,
    progress: Progress,
) -> Report:
    """Compare; write study, plan and artefact into `out`, and return the report.

    Args:
        which: `vision` or `text`.
        progress: called with (stage, done, total, note).

    Raises:
        PockError: the demo's packages are missing, or `out` holds another task's study.
    """
    return _Experiment(which, out, settings, progress).run(quick, command)


class _Experiment:
    def __init__(self, which: str, out: Path, settings: Settings, progress: Progress) -> None:
        self.which, self.out, self.settings, self.progress = which, out, settings, progress
        self.seconds: dict[str, float] = {}
        self.losses: dict[tuple[str, str], list[tuple[float, ...]]] = {}  # (method, runtime) -> per seed
        self.kept: dict[tuple[str, str], list[Run]] = {}  # final runs, likewise
        self.threads = usable_cores()
        torch.set_num_threads(self.threads)

    def run(self, quick: bool, command: str) -> Report:
        self._require_own_artifact()
        self.out.mkdir(parents=True, exist_ok=True)
        with self._stage("Loading model and data"):
            self.task = load_task(DEMOS[self.which])
        with self._stage("Deriving the training graph"):
            self.study = pg.Study(self.out / "study.db", self.task, pg.SGD(momentum=0.9))
            self.graph = self.study.graph
            self.optimizer = self.graph.optimizer.to_dict()
            self.splits = splits_of(self.task, self.settings.validation_batches)
            profile = self.study.profile
        with self._stage("Measuring contribution"):
            analysis = self.settings.analysis or quick_settings(profile)
            self.study.analyze(progress=self._analysis_progress, **analysis)
        with self._stage("Planning"):
            budget, planned = self._planned_methods()
        with tempfile.TemporaryDirectory(prefix="pockui-demo-") as scratch:
            folder = Path(scratch)
            with self._stage("Compiling for OpenVINO"):
                self._compile(planned, folder)
            with self._stage("Training on OpenVINO"):
                methods, metrics = self._train(planned, folder)
            with self._stage("Training in plain PyTorch"):
                metrics |= self._train_eager(methods, planned)
            agreement = {
                key: loss_difference(self.losses[key, "openvino"], self.losses[key, "eager"])
                for key, runtime in metrics
                if runtime == "eager"
            }
            with self._stage("Measuring time and memory"):
                rows = self._measure(folder, metrics)
                self._learn_times(profile, planned, rows)
        title, metric = TITLES[self.which]
        return Report(
            task=self.task.name, title=title, metric=metric, command=command,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), quick=quick,
            machine=machine(), versions=versions(), settings=self._settings(analysis),
            budget_bytes=budget, budget_rule=BUDGET_RULE,
            blocks=self._blocks(), sizes={r.fqn: math.prod(r.shape) for r in self.graph.tensors},
            seconds=self.seconds, agreement=agreement, methods=tuple(methods.values()), rows=tuple(rows),
        )  # fmt: skip

    def _require_own_artifact(self) -> None:
        """Refuse a folder whose artefact no demo made: the study of one lies beside it."""
        place = self.out / "artifact"
        if place.is_dir() and any(place.iterdir()) and not (self.out / "study.db").exists():
            raise PockError(
                f"{place} lies there, and no study beside it says that a demo made it. Nothing was written. "
                "Choose another folder with --out, or move that one."
            )

    def _settings(self, analysis: Mapping[str, Any]) -> dict[str, Any]:
        batch = {k: list(v.shape) for k, v in self.task.example.items()}
        more = {
            "analysis": dict(analysis),
            "threads": self.threads,
            "optimizer": self.optimizer,
            "batch": batch,
        }
        return json.loads(json.dumps(asdict(self.settings) | more))  # as the file will hold them

    def _blocks(self) -> dict[str, tuple[str, ...]]:
        blocks: dict[str, list[str]] = {}
        for row in self.graph.tensors:
            blocks.setdefault(row.block, []).append(row.fqn)
        return {name: tuple(fqns) for name, fqns in blocks.items()}

    # ---------------------------------------------------------------- planning

    def _planned_methods(self) -> tuple[int, dict[str, PlannedMethod]]:
        """The automatic plan's budget in bytes, and what is compared, by key."""
        graph = self.graph
        head, full, preset = pg.Plan.head(graph), pg.Plan.full(graph), pg.Plan.preset(graph)
        head_peak, full_peak, preset_peak = (graph.prune(p).peak_bytes for p in (head, full, preset))
        budget = round(head_peak + BUDGET_SHARE * (full_peak - head_peak))
        k = sum(r.kind == "bias" for r in graph.tensors) // 2
        auto = self.study.search(pg.Budget(peak_bytes=budget))
        auto.save(self.out / "plan.json")
        found = {
            "head": PlannedMethod("Head only", "the new classifier", head),
            "biases": PlannedMethod(
                f"Last {k} biases",
                "the head and the last half of all biases",
                pg.Plan.last_k_biases(graph, k),
            ),
            "preset": PlannedMethod(
                "Paper preset", "the scheme PockEngine reports for this kind of network", preset
            ),
            "auto": PlannedMethod("Automatic", _rule(budget, "modelled peak"), auto),
        }
        if self.settings.equal_memory:
            small = self.study.search(pg.Budget(peak_bytes=preset_peak))
            rule = _rule(preset_peak, "modelled peak, the preset's")
            found["auto_small"] = PlannedMethod("Automatic, preset's memory", rule, small)
        found["full"] = PlannedMethod("Full fine-tuning", "every tensor", full)
        for label, _, plan in found.values():
            self.study.save_plan(label, self._with_figures(plan))
        return budget, found

    def _with_figures(self, plan: pg.Plan) -> pg.Plan:
        small = self.graph.prune(plan)
        figures = {"peak_bytes": small.peak_bytes, "extra_bytes": small.extra_bytes, "flops": small.flops}
        return plan.model_copy(update={"predicted": {**figures, **plan.predicted}})

    def _compile(self, planned: Mapping[str, PlannedMethod], folder: Path) -> None:
        for done, (key, (label, _, plan)) in enumerate(planned.items()):
            self._report(done, len(planned), label)
            pg.compile(self.graph, plan, target="openvino", out=folder / key)
            plan.save(folder / f"{key}.json")
        pg.compile(self.graph, planned["auto"].plan, target="openvino", out=self.out / "artifact")

    # ---------------------------------------------------------------- training

    def _harness(self, total: int) -> TrainingHarness:
        heads = {seed: fresh_head(self.task, seed) for seed in (*self.settings.seeds, TUNING_SEED)}
        return TrainingHarness(
            self.task, heads, lambda done, note: self._report(done, total, note), self.study
        )

    def _validation(self) -> list[Any]:
        return list(itertools.islice(self.task.validation or (), self.settings.validation_batches))

    def _run(self, plan: pg.Plan, label: str, seed: int, lr: float | None, target: str) -> Run:
        """What is known of a run before it is trained."""
        return Run(
            plan, name=label, origin="demo", target=target, seed=seed, lr=lr, schedule="cosine",
            fresh=bool(self.task.fresh), data=self.splits, predicted_gain=plan.predicted.get("gain"),
        )  # fmt: skip

    def _train(
        self, planned: Mapping[str, PlannedMethod], folder: Path
    ) -> tuple[dict[str, Method], dict[tuple[str, str], tuple[float | None, ...]]]:
        """Each method with its learning rate chosen, and its metric for each seed."""
        s = self.settings
        harness = self._harness(len(planned) * (len(s.rates) * s.tuning_steps + len(s.seeds) * s.steps))
        validation, test = self._validation(), list(self.task.eval)
        methods: dict[str, Method] = {}
        metrics: dict[tuple[str, str], tuple[float | None, ...]] = {}
        heads: dict[int, float | None] = {}
        for key, method in planned.items():
            learner, label = CompiledLearner(folder / key, self.threads), method.label
            trial = self._run(method.plan, label, TUNING_SEED, None, "openvino")
            trials = harness.tune(learner, trial, s.rates, s.tuning_steps, validation)
            lr = choose_rate(trials)
            outcomes = []
            for seed in s.seeds if lr is not None else ():
                run = self._run(method.plan, f"{label}, seed {seed}", seed, lr, "openvino")
                run = replace(run, head_metric=heads.get(seed))
                outcomes.append(self._final(harness, learner, run, key, "openvino", validation, test))
            if key == "head":
                heads = {run.seed: run.validation_metric for run in self.kept.get((key, "openvino"), ())}
            self.losses[key, "openvino"] = [o.losses for o in outcomes]
            metrics[key, "openvino"] = tuple(o.metric for o in outcomes) or (None,) * len(s.seeds)
            methods[key] = self._method(key, method, trials, lr)
        return methods, metrics

    def _final(
        self, harness: TrainingHarness, learner: Learner, run: Run, key: str, runtime: str,
        validation: list[Any], test: list[Any],
    ) -> Outcome:  # fmt: skip
        outcome, kept = harness.train(learner, run, self.settings.steps, validation, test)
        self.kept.setdefault((key, runtime), []).append(kept)
        return outcome

    def _train_eager(
        self, methods: Mapping[str, Method], planned: Mapping[str, PlannedMethod]
    ) -> dict[tuple[str, str], tuple[float | None, ...]]:
        """The same runs by PyTorch's autograd and torch.optim, at the same learning rates."""
        s = self.settings
        keys = [k for k in s.eager_trains if methods[k].lr is not None]
        harness = self._harness(len(keys) * len(s.seeds) * s.steps)
        validation, test = self._validation(), list(self.task.eval)
        metrics: dict[tuple[str, str], tuple[float | None, ...]] = {}
        for key in keys:
            method = methods[key]
            # A task of its own: the weights of the other one are the graph's constants.
            learner = EagerLearner(load_task(DEMOS[self.which]), tuple(method.ratios), self.optimizer)
            outcomes = []
            for seed in s.seeds:
                run = self._run(planned[key].plan, f"{method.label}, seed {seed}", seed, method.lr, "eager")
                outcomes.append(self._final(harness, learner, run, key, "eager", validation, test))
            self.losses[key, "eager"] = [o.losses for o in outcomes]
            metrics[key, "eager"] = tuple(o.metric for o in outcomes)
        return metrics

    def _method(self, key: str, planned: PlannedMethod, trials: list[Trial], lr: float | None) -> Method:
        plan = planned.plan
        small = self.graph.prune(plan)
        ratios = {fqn: plan.ratio(fqn) for fqn in plan.tensors}
        return Method(
            key=key, label=planned.label, rule=planned.rule, ratios=ratios,
            values=sum(round(math.prod(plan.model[fqn]) * r) for fqn, r in ratios.items()),
            peak_bytes=small.peak_bytes, extra_bytes=small.extra_bytes, flops=small.flops,
            predicted_gain=plan.predicted.get("gain"), lr=lr,
            lr_on_edge=lr in (min(self.settings.rates), max(self.settings.rates)), trials=tuple(trials),
        )  # fmt: skip

    # ---------------------------------------------------------------- measuring

    def _measure(
        self, folder: Path, metrics: Mapping[tuple[str, str], tuple[float | None, ...]]
    ) -> list[Row]:
        """A row for each method on each runtime."""
        s, reference = self.settings, DEMOS[self.which]
        methods = [key for key, runtime in metrics if runtime == "openvino"]
        with batch_file(self.task.example) as batch:

            def eager(plan: Path | None, compiled: bool = False) -> tuple[str, ...]:
                return eager_command(
                    reference, batch, self.optimizer, plan=plan, compiled=compiled, threads=self.threads
                )

            commands = {(k, "openvino"): artifact_command(folder / k, batch, self.threads) for k in methods}
            for key in (k for k in methods if k in s.eager_methods):
                commands[key, "eager"] = eager(None if key == "full" else folder / f"{key}.json")
            if s.compiled:
                commands["full", "compiled"] = eager(None, compiled=True)
            names = {" on ".join(pair): command for pair, command in commands.items()}
            found = measure_interleaved(names, blocks=s.blocks, steps=s.block_steps, progress=self._report)
        rows = []
        for key, runtime in commands:
            figures = found[f"{key} on {runtime}"]
            row: dict[str, Any] = {
                "method": key,
                "runtime": runtime,
                "metrics": metrics.get((key, runtime), ()),
            }
            if isinstance(figures, MeasureError):
                row["reason"] = str(figures)
            else:
                measured = figures_to_json(figures)
                row |= {k: v for k, v in measured.items() if k in Row.model_fields}
                self._note_figures(self.kept.get((key, runtime), ()), measured)
            rows.append(Row(**row))
        if not s.compiled:
            reason = "not run by --quick: compiling alone takes about a minute"
            rows.append(Row(method="full", runtime="compiled", reason=reason))
        return rows

    def _note_figures(self, runs: Iterable[Run], measured: Mapping[str, Any]) -> None:
        """Tell the study what a step of these runs needed in a process of its own."""
        for run in runs:
            if run.id is not None:
                peak = measured["whole_peak_bytes"]
                self.study.update_run(replace(run, measured=measured, measured_peak_bytes=peak))

    def _learn_times(self, profile: Profile, planned: Mapping[str, PlannedMethod], rows: list[Row]) -> None:
        """Teach the study how long steps take, so that budgets in ms can be searched."""
        measured = {r.method: r.step_ms for r in rows if r.runtime == "openvino" and r.step_ms is not None}
        plans = [
            MeasuredPlan(target="openvino", choice=dict(profile.ratios_of(planned[key].plan)), step_ms=ms)
            for key, ms in measured.items()
        ]
        if len(plans) > 1:
            self.study.save_profile(profile.with_time(fit_time(profile, plans)))

    # ---------------------------------------------------------------- progress

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.stage = name
        self.progress(name, 0, 1, "")
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)
        self.progress(name, 1, 1, "")

    def _report(self, done: int, total: int, note: str) -> None:
        self.progress(self.stage, done, total, note)

    def _analysis_progress(self, event: Any) -> None:
        self._report(event.done, event.total, event.label)


def loss_difference(some: list[tuple[float, ...]], others: list[tuple[float, ...]], steps: int = 3) -> float:
    """The largest relative difference over the first steps of several runs."""
    pairs = [pair for a, b in zip(some, others) for pair in zip(a[:steps], b[:steps])]
    return max((abs(a - b) / max(abs(b), 1e-12) for a, b in pairs), default=0.0)


def _rule(budget: int, what: str) -> str:
    return f"best measured contribution within {budget / 1e6:.1f} MB {what}"
