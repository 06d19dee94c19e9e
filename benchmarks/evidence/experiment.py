"""One pair: analysed, planned, and each way of choosing trained under the same conditions.

- Every method has the same batches in the same order, the same fresh tensors for each seed, the same number
  of steps and the same schedule (cosine to zero). Its rate is picked on the validation data by the
  same rule (`pockui/demo/tuning.py`). The test data is read once a run, at its end.
- Time and memory are those of processes of their own, asked in turn for a few steps.
- What failed, or could not be had within the budget, is a row with its reason.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import pockgraph as pg
from pockgraph.errors import BudgetError, TaskError
from pockgraph.measure import MeasureError, artifact_command, batch_file, figures_to_json, measure_interleaved
from pockgraph.profile.model_fits import fit_models
from pockgraph.study import Run
from pockgraph.study.measured_plans import FITTED_PLANS, fitting_choices, measure_plans
from pockui.demo.training import CompiledLearner, TrainingHarness, fresh_head
from pockui.demo.tuning import choose_rate, tune

from .contenders import LABELS, Budgets, Contender, budgets, choose
from .log import Log, Row
from .pairs import Pair

TUNING_SEED = 1000  # of no final run


@dataclass(frozen=True)
class Settings:
    """What all pairs share.

    Attributes:
        seeds: of the final runs.
        budget_mb: the shared budget; None: the preset's memory.
        probes: plans that are measured for models of time and memory.
        threads: of every process.
        blocks, block_steps: rounds of the interleaved timing, and steps in each.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    budget_mb: float | None = None
    probes: int = FITTED_PLANS
    threads: int = 1
    blocks: int = 5
    block_steps: int = 4


def run(name: str, pair: Pair, settings: Settings, log: Log, folder: Path) -> None:
    """Everything of a pair that the log lacks.

    Raises:
        PockError: the data is not here, or the task cannot be analysed.
    """
    _Experiment(name, pair, settings, log, folder).run()


class _Experiment:
    def __init__(self, name: str, pair: Pair, settings: Settings, log: Log, folder: Path) -> None:
        self.name, self.pair, self.settings, self.log = name, pair, settings, log
        self.folder = folder / name
        torch.set_num_threads(settings.threads)

    def run(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._say("task")
        self.task = self.pair.make()
        with pg.Study(self.folder / "study.db", self.task, pg.SGD(momentum=0.9)) as self.study:
            self._say("analysis")
            start = time.perf_counter()
            self.study.analyze(**self.pair.analysis)
            self._say(f"analysed in {time.perf_counter() - start:.0f} s")
            self._fit_models()
            within = budgets(self.study.profile, self.settings.budget_mb)
            contenders = self._contenders(within)
            for contender in contenders:
                self._train(contender)
            self._measure(contenders)
        self.log.add(kind="done", pair=self.name, **self._conditions())

    def _fit_models(self) -> None:
        """Time and memory of any plan, from a few that are measured; the study keeps them."""
        profile = self.study.profile
        if profile.time is None:
            self._say("measuring plans")
            s = self.settings
            measured = measure_plans(
                self.study.graph, profile, choices=fitting_choices(profile, s.probes), rounds=s.blocks,
                steps=s.block_steps, threads=s.threads,
            )  # fmt: skip
            self.study.save_profile(fit_models(profile, measured))

    def _conditions(self) -> dict[str, Any]:
        """What must be the same for a row to count."""
        return {"steps": self.pair.steps, "tuning_steps": self.pair.tuning_steps}

    def _contenders(self, within: Budgets) -> list[Contender]:
        keys = [key for key in LABELS if key != "lora" or self.pair.adapters]
        found: list[Contender] = []
        for key in keys:
            try:
                rates = self.pair.rates
                found.append(choose(key, self.study, within, rates[len(rates) // 2]))
            except (BudgetError, TaskError) as e:
                self.log.add(kind="skipped", pair=self.name, method=key, reason=str(e))
                continue
            chosen = found[-1]
            row = {
                "kind": "plan", "pair": self.name, "method": key, "plan": chosen.id,
                "peak_bytes": chosen.peak_bytes, "tensors": len(chosen.plan.tensors), "note": chosen.note,
                "budget": within.kind, "budget_bytes": within.shared_bytes, "half_bytes": within.half_bytes,
                **self._conditions(),
            }  # fmt: skip
            if self.log.find(kind="plan", pair=self.name, method=key) != row:
                self.log.add(**row)
            self._compile(chosen)
        return found

    def _artifact(self, contender: Contender) -> Path:
        return self.folder / "artifacts" / f"{contender.key}-{contender.id}"

    def _compile(self, contender: Contender) -> None:
        place = self._artifact(contender)
        if not (place / "manifest.json").exists():
            self._say(f"compiling {contender.key}")
            pg.compile(contender.graph, contender.plan, target="openvino", out=place)

    # ---------------------------------------------------------------- training

    def _train(self, contender: Contender) -> None:
        """Its rate and its final runs, as far as the log lacks them."""
        task = contender.graph.task if contender.key == "lora" else self.task
        kept = {"pair": self.name, "method": contender.key, "plan": contender.id, **self._conditions()}
        seeds = (*self.settings.seeds, TUNING_SEED)
        heads = {seed: fresh_head(task, seed) for seed in seeds}
        # The study keeps none of the runs: a search that learnt from them would choose otherwise next time.
        harness = TrainingHarness(task, heads, lambda *_: None)
        learner: CompiledLearner | None = None  # loaded when there is something to do

        def trained(seed: int, rate: float, steps: int, test: Any) -> Row:
            nonlocal learner
            learner = learner or CompiledLearner(self._artifact(contender), self.settings.threads)
            run = Run(
                contender.plan, name=f"evidence, {contender.key}, seed {seed}, rate {rate:g}",
                target="openvino", seed=seed, lr=rate, schedule="cosine", fresh=bool(self.task.fresh),
                predicted_gain=contender.plan.predicted.get("gain"),
            )  # fmt: skip
            start = time.perf_counter()
            outcome, made = harness.train(learner, run, steps, list(self.task.validation or ()), test)
            return {
                "metric": outcome.metric, "validation": made.validation_metric,
                "seconds": round(time.perf_counter() - start, 1),
            }  # fmt: skip

        def tried(rate: float) -> float | None:
            row = self.log.find(kind="trial", rate=rate, **kept)
            if row is None:
                made = trained(TUNING_SEED, rate, self.pair.tuning_steps, None)
                row = self.log.add(kind="trial", rate=rate, **kept, **made)
            return row["metric"]

        rate = choose_rate(tune(tried, self.pair.rates))
        if rate is None:
            return
        self._say(f"{contender.key}: rate {rate:g}")
        for seed in self.settings.seeds:
            if self.log.find(kind="run", seed=seed, rate=rate, **kept) is None:
                made = trained(seed, rate, self.pair.steps, list(self.task.eval))
                self.log.add(kind="run", seed=seed, rate=rate, **kept, **made)

    # ---------------------------------------------------------------- measuring

    def _measure(self, contenders: list[Contender]) -> None:
        """Time and memory of a step of each, side by side, unless all are known."""

        def known(c: Contender) -> dict[str, Any]:
            return {"kind": "measured", "pair": self.name, "method": c.key, "plan": c.id}

        if all(self.log.find(**known(c)) for c in contenders):
            return
        self._say("measuring time and memory")
        with batch_file(self.task.example) as batch:
            commands = {
                c.key: artifact_command(self._artifact(c), batch, self.settings.threads) for c in contenders
            }
            found = measure_interleaved(
                commands, blocks=self.settings.blocks, steps=self.settings.block_steps
            )
        for c in contenders:
            figures = found[c.key]
            if isinstance(figures, MeasureError):
                self.log.add(**known(c), reason=str(figures))
            else:
                self.log.add(**known(c), **figures_to_json(figures))

    def _say(self, what: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {self.name}: {what}", flush=True)
