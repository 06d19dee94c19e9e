"""The demo's comparison: what to train, found automatically, against the ways people choose by hand.

Rules that keep it fair, and that the report repeats:

- Every method has the same batches in the same order, the same fresh head for each seed, the same
  number of steps, the same schedule (cosine to zero), and its learning rate is picked on the validation
  split by the same rule (`tuning.py`). The test split is read once, at the end.
- Time is interleaved: all contenders are processes of their own, asked in turn for a few steps.
- Memory is a process's own peak over its own baseline.
- What was not run, or failed, is a row with its reason.
"""

from __future__ import annotations

import datetime
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

import pockgraph as pg
from pockgraph.contribution.candidates import quick_settings
from pockgraph.errors import PockError
from pockgraph.files import ScratchFolder
from pockgraph.machine import machine, usable_cores
from pockgraph.measure import (
    MeasureError,
    StepFigures,
    artifact_command,
    batch_file,
    figures_to_json,
    measure_interleaved,
)
from pockgraph.profile import Profile
from pockgraph.profile.time_model import LEAST_TIMED_PLANS
from pockgraph.study import Run
from pockgraph.study.data_splits import splits_of

from ..eager import eager_command
from ..project import DEMOS, load_task
from ..versions import versions
from .answers import answers
from .forecasts import expected, held_against
from .measured_costs import device_of, process_peaks
from .planning import BUDGET_RULE, PlannedMethod, planned_methods
from .results import Answers, Method, ProcessPeak, Report, Row, Trial
from .settings import TUNING_SEED, Settings
from .training import CompiledLearner, EagerLearner, Learner, Outcome, TrainingHarness, fresh_head
from .tuning import choose_rate, lies_at_end, tune

ARTIFACT, CHECKPOINT = "artifact", "trained"  # in the demo's folder
CLASS_NAMES = {"text": ("negative", "positive")}  # digits are called by their numbers
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
            budget, planned = planned_methods(self.study, self.settings)
            planned["auto"].plan.save(self.out / "plan.json")
            forecasts = expected(self.study, planned)
        with self._stage("Holding forecasts against trainings"):
            seeds = self.settings.forecast_seeds
            forecasts = held_against(forecasts, self.study, planned, seeds, self._report)
        with ScratchFolder("demo") as folder:
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
                rows, figures = self._measure(folder, metrics)
                processes = self._learn_costs(profile, planned, figures)
        with self._stage("Predicting with what was trained"):
            found = self._answers(metrics["auto", "openvino"])
        for key, method in methods.items():
            told = {"expected": forecasts.get(key), "process": processes.get(key)}
            methods[key] = method.model_copy(update=told)
        title, metric = TITLES[self.which]
        return Report(
            task=self.task.name, title=title, metric=metric, command=command,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), quick=quick,
            machine=machine(), versions=versions(), settings=self._settings(analysis),
            budget_bytes=budget, budget_rule=BUDGET_RULE,
            blocks=self._blocks(), sizes={r.fqn: math.prod(r.shape) for r in self.graph.tensors},
            seconds=self.seconds, agreement=agreement, methods=tuple(methods.values()), rows=tuple(rows),
            answers=found,
        )  # fmt: skip

    def _require_own_artifact(self) -> None:
        """Refuse a folder whose artefact no demo made: the study of one lies beside it."""
        place = self.out / ARTIFACT
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

    # ---------------------------------------------------------------- compiling

    def _compile(self, planned: Mapping[str, PlannedMethod], folder: Path) -> None:
        for done, (key, (label, _, plan, graph)) in enumerate(planned.items()):
            self._report(done, len(planned), label)
            step = (graph or self.graph).without_predictions()
            pg.compile(step, plan, target="openvino", out=folder / key)
            plan.save(folder / f"{key}.json")
        pg.compile(self.graph, planned["auto"].plan, target="openvino", out=self.out / ARTIFACT)

    # ---------------------------------------------------------------- training

    def _harness(self, total: int, graph: pg.TrainGraph | None = None, done: int = 0) -> TrainingHarness:
        """
        Args:
            graph: of another network than the study's, which keeps none of its runs.
            done: steps of `total` that another harness took.
        """
        task = self.task if graph is None else graph.task
        heads = {seed: fresh_head(task, seed) for seed in (*self.settings.seeds, TUNING_SEED)}
        return TrainingHarness(
            task, heads, lambda more, note: self._report(min(done + more, total), total, note),
            self.study if graph is None else None,
        )  # fmt: skip

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
        each = len(s.rates) * s.tuning_steps + len(s.seeds) * s.steps
        shared = self._harness(len(planned) * each)
        validation, test = self._validation(), list(self.task.eval)
        methods: dict[str, Method] = {}
        metrics: dict[tuple[str, str], tuple[float | None, ...]] = {}
        heads: dict[int, float | None] = {}
        for place, (key, method) in enumerate(planned.items()):
            own = method.graph and self._harness(len(planned) * each, method.graph, place * each)
            harness = own or shared
            learner, label = CompiledLearner(folder / key, self.threads), method.label
            trial = self._run(method.plan, label, TUNING_SEED, None, "openvino")

            def tried(lr: float, harness=harness, learner=learner, trial=trial) -> float | None:
                run = replace(trial, lr=lr, name=f"{trial.name}, rate {lr:g}")
                return harness.train(learner, run, s.tuning_steps, validation)[0].metric

            trials = tune(tried, s.rates)
            lr = choose_rate(trials)
            outcomes = []
            for seed in s.seeds if lr is not None else ():
                run = self._run(method.plan, f"{label}, seed {seed}", seed, lr, "openvino")
                run = replace(run, head_metric=heads.get(seed))
                outcomes.append(self._final(harness, learner, run, key, "openvino", validation, test))
            if key == "auto" and outcomes and outcomes[-1].metric is not None:
                learner.save(self.out / CHECKPOINT)
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
        small = (planned.graph or self.graph).prune(plan)
        ratios = {fqn: plan.ratio(fqn) for fqn in plan.tensors}
        return Method(
            key=key, label=planned.label, rule=planned.rule, ratios=ratios,
            values=sum(round(math.prod(plan.model[fqn]) * r) for fqn, r in ratios.items()),
            peak_bytes=small.peak_bytes, extra_bytes=small.extra_bytes, flops=small.flops,
            predicted_gain=plan.predicted.get("gain"), lr=lr,
            lr_on_edge=lies_at_end(trials, lr), trials=tuple(trials),
        )  # fmt: skip

    def _answers(self, metrics: tuple[float | None, ...]) -> Answers | None:
        """What the artefact predicts of the test split with what it learnt, where it learnt something."""
        if not self.graph.predictions or not metrics or metrics[-1] is None:
            return None
        batches = (self.task.named(batch) for batch in self.task.eval)
        names = CLASS_NAMES.get(self.which, ())
        return answers(self.out / ARTIFACT, self.out / CHECKPOINT, batches, self.threads, names)

    # ---------------------------------------------------------------- measuring

    def _measure(
        self, folder: Path, metrics: Mapping[tuple[str, str], tuple[float | None, ...]]
    ) -> tuple[list[Row], dict[str, StepFigures]]:
        """A row for each method on each runtime, and what was measured of each method on OpenVINO."""
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
        rows, compiled = [], {}
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
                if runtime == "openvino":
                    compiled[key] = figures
                measured = figures_to_json(figures)
                row |= {k: v for k, v in measured.items() if k in Row.model_fields}
                self._note_figures(self.kept.get((key, runtime), ()), measured)
            rows.append(Row(**row))
        if not s.compiled:
            reason = "not run by --quick: compiling alone takes about a minute"
            rows.append(Row(method="full", runtime="compiled", reason=reason))
        return rows, compiled

    def _note_figures(self, runs: Iterable[Run], measured: Mapping[str, Any]) -> None:
        """Tell the study what a step of these runs needed in a process of its own."""
        for run in runs:
            if run.id is not None:
                peak = measured["whole_peak_bytes"]
                self.study.update_run(replace(run, measured=measured, measured_peak_bytes=peak))

    def _learn_costs(
        self, profile: Profile, planned: Mapping[str, PlannedMethod], figures: Mapping[str, StepFigures]
    ) -> dict[str, ProcessPeak]:
        """Teach the study what steps take on this machine, so that budgets of time and of process memory can
        be searched.

        Returns:
            The account of each process.
        """
        choices = {key: profile.ratios_of(planned[key].plan) for key in figures if planned[key].graph is None}
        if len(choices) < LEAST_TIMED_PLANS:
            return {}
        device = device_of(self.graph, "openvino", choices, figures, self.threads)
        self.study.add_device(device)
        return process_peaks(profile, dict(zip(choices, device.plans(), strict=True)))

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
