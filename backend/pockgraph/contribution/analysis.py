"""Measure contribution: fine-tune the head with one tensor at a time (arXiv 2310.17752, section 3.2).

The head alone is measured first, then what is cheapest: the layers next to the head. All measurements
share the steps, the batches and one learning rate, so that a difference is the tensor's doing. That rate
is the best of a small logarithmic grid around the optimizer's own, judged on validation batches by the
mean metric of three plans: the head alone, the head with one weight from the middle of the network, and all
candidates together, these with two seeds unless time is limited. A rate that suits a few tensors can ruin a
network of which many are trained, with one seed and not with another, and a forecast is of plans of any size
at that one rate.

Each measurement is one transaction in the study. Whatever ends an analysis, the next one goes on
after the last finished measurement. Before them, unless everything is to be measured, gradients score every
candidate there is (`probe.py`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import asdict, replace
from functools import cached_property
from statistics import fmean
from typing import Any

from ..errors import NonFiniteLoss, StudyError, UnsupportedOperators, listing
from ..parity.gradients import check_graph
from ..store.lease import Lease, lease
from ..store.store import Store
from ..task import Task
from ..train_graph import TrainGraph
from ..workers.local_processes import WorkerDied
from .activation_cache import Forward
from .candidates import Settings, candidates
from .data import with_validation
from .eager_finetuning import EagerBackend
from .finetuning import why_diverged
from .finetuning_time import TimeEstimate
from .gains import HEAD, Candidate, Measurement, Progress, together
from .kept_measurements import KeptMeasurements
from .measuring import Cancelled, Draw, Job, Measurer, Taken
from .mixed_schedule import Chooser, MixedSchedule
from .probe import probe
from .schedule import FullSchedule, Request, Schedule, missing
from .scores import Scores
from .worker import NotComparable
from .workplace import Workplace

# A plan that eager PyTorch measures faster than this is not worth compiling, however fast the result.
COMPILE_PAYS_S = 2.0

# Pruning a graph and making it run takes some tenths of a second, whatever its size (at 20 GFLOP/s).
PREPARING_FLOPS = 4_000_000_000
# What a short training may cost of a whole one, that it is worth its time.
WORTH_SCREENING = 0.35


def analyze(
    store: Store,
    task: Task,
    graph: TrainGraph,
    settings: Settings,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    force: bool = False,
    choose: Chooser | None = None,
    workers: int | None = None,
    executor: Executor | None = None,
) -> None:
    """Take every measurement that the study lacks; see `Study.analyze`.

    Args:
        choose: what plans take; mode `"mixed"` needs it.
    """
    store.check_writable()
    measurer = Measurer(with_validation(task), graph, settings)
    analysis = _Analysis(store, measurer, progress, cancel, choose, workers, executor)
    with closing(analysis.place):
        analysis.run(force)


class _Analysis:
    def __init__(
        self,
        store: Store,
        measurer: Measurer,
        progress: Callable[[Progress], None] | None,
        cancel: Callable[[], bool] | None,
        choose: Chooser | None,
        workers: int | None,
        executor: Executor | None,
    ) -> None:
        self._choose = choose
        self.store, self.measurer = store, measurer
        self.graph, self.settings = graph, settings = measurer.graph, measurer.settings
        self.place = Workplace(measurer, executor, workers, self._tick)
        self._progress, self._cancel = progress, cancel
        self.candidates = list(measurer.candidates)
        self._together = together(self.candidates)
        forward = Forward(graph.gradients)
        passes = self._passes()
        self._fixed = PREPARING_FLOPS + 10 * forward.work_before[-1]
        self.work = {
            c: self._fixed + passes * forward.work_after(measurer.choice(c))
            for c in (HEAD, *self.candidates, *([self._together] if self._together else []))
        }
        self.candidates.sort(key=lambda c: (self.work[c], c.ratio, c.k))
        # The first measurements also fill the cache of activations: one forward pass for every batch.
        batches = settings.steps * len(settings.seeds) + measurer.data.validation_count
        self._measured_s, self._measured_work = 0.0, batches * forward.work_before[-1]
        self._start = time.monotonic()
        self._is_checked = False
        self._lease: Lease
        self._kept: KeptMeasurements

    def run(self, force: bool) -> None:
        rate = self.settings.lr if isinstance(self.settings.lr, int | float) else None
        head, biases = (json.dumps(names) for names in (self.measurer.head, self.measurer.bias_order))
        new = {"lr": rate, "head": head, "bias_order": biases}
        with lease(self.store, self.settings.comparable(self.graph.optimizer.lr), new) as self._lease:
            self._kept = KeptMeasurements(self.store, self._lease)
            self._note_end("")
            self._is_checked = force
            schedule = self._schedule()
            if self.settings.mode == "mixed":
                self._kept.recall()
            self._kept.want(schedule.foreseen, self._steps, forget_unfinished=True)
            self._learn_pace()
            self._report("preparing", None)
            if any(m.status == "planned" for m in self._kept.known.values()):
                self._check_graph()
            in_time = True
            while in_time and (wanted := schedule.next(self._kept.known)):
                self._check_head()
                self._kept.want(wanted, self._steps)
                try:
                    in_time = self._measure(missing(wanted, self._kept.known))
                except NotComparable as e:
                    if not self.place.chosen:
                        raise
                    self.place.stay_here(e)
            self._check_head()
            self._note_end("finished" if in_time else "time")
        failed = self._kept.failed()
        if failed:
            names = listing([m.candidate.label for m in failed])
            raise StudyError(
                f"{len(failed)} of {len(self._kept.known)} measurements failed ({names}); the others are "
                f"kept. The first says: {failed[0].error}"
            )

    def _note_end(self, why: str) -> None:
        """Note how this call ended; an empty text while it has not."""
        limit = self.settings.time_budget_s
        self._kept.note_end(
            {"mode": self.settings.mode, "why": why} | ({"limit_s": limit} if limit < math.inf else {})
        )

    # ------------------------------------------------------------------ what is measured

    def _scores(self) -> Scores:
        """Of all candidates there are, also those that are not to be measured; the study's, or made now."""
        every = candidates(
            self.graph, self.measurer.head, replace(self.settings, tensors=None, bias_counts=None)
        )
        every += [c for c in self.candidates if c not in every]
        if (kept := self._kept.scores(every)) is not None:
            return kept
        self._report("probing", None)
        self._check_graph()
        rate = self.settings.lr if isinstance(self.settings.lr, int | float) else self.graph.optimizer.lr
        found = probe(
            self.measurer.task, self.graph, every, self.measurer.plan_of, self.measurer.plan_of(HEAD),
            self.settings.seeds[0], rate, self._tick,
        )  # fmt: skip
        self._kept.keep_scores(found)
        return found

    def _check_graph(self) -> None:
        """Before the first gradient that counts."""
        if not self._is_checked:
            check_graph(self.graph)
        self._is_checked = True

    def _schedule(self) -> Schedule:
        scores = None if self.settings.mode == "measured" else self._scores()
        if self.settings.mode == "probe":
            return FullSchedule((), (), self.settings.seeds)
        tuning = []
        if self._kept.lr is None:
            first, *others = self.settings.tuning_seeds
            for rate in self.settings.grid(self.graph.optimizer.lr):
                tuning += [Request("tuning", c, first, rate) for c in self._sizes()]
                # A rate at which one seed succeeds and another fails is no rate for all together.
                if self._together:
                    tuning += [Request("tuning", self._together, seed, rate) for seed in others]
        if scores is None or self._choose is None:
            return FullSchedule(tuning, self.candidates, self.settings.seeds)
        middle = next(iter(self._middle()), HEAD)
        short, whole = Request("screening", middle, 0), Request("contribution", middle, 0)
        screens = self._work(short) < WORTH_SCREENING * self._work(whole)
        return MixedSchedule(
            tuning, self.candidates, self.settings.seeds, scores, self._choose, screens,
            self.measurer.bias_order, self.measurer.head,
        )  # fmt: skip

    def _passes(self, steps: int | None = None) -> int:
        """Forward passes that a measurement takes, or as much work; a backward pass is two."""
        return 3 * (steps or self.settings.steps) + self.measurer.data.validation_count

    # ------------------------------------------------------------------ measuring

    def _measure(self, wanted: Sequence[Request]) -> bool:
        """Take measurements, and save each as it comes.

        Returns:
            Whether there was time for all of them. What the head alone reaches is measured in any case.
        """
        if not wanted:
            return True
        self.place.expect(self._seconds_left())
        asked: dict[Job, list[Request]] = {}
        for job, found in self.place.results(self._jobs(wanted, asked), self._target):
            if isinstance(found, WorkerDied):
                if job.candidate == HEAD:
                    raise StudyError(f"Training the head alone: {found}") from found
                found = [Taken({"status": "failed", "error": str(found)}, 0.0)] * len(job.draws)
            for request, draw, taken in zip(asked[job], job.draws, found, strict=True):
                self._save(request, draw.lr, taken)
        return sum(map(len, asked.values())) == len(wanted)

    def _jobs(self, wanted: Sequence[Request], asked: dict[Job, list[Request]]) -> Iterator[Job]:
        """One for all that is wanted of a candidate, or for fewer while that leaves a worker without any.

        They end where the time budget does.

        Args:
            asked: filled with what each job is for.
        """
        groups: dict[Candidate, list[Request]] = {}
        for request in wanted:
            groups.setdefault(request.candidate, []).append(request)
        size = 1 if self.place.here else max(1, len(wanted) // max(1, self.place.workers))
        for candidate, requests in groups.items():
            for part in (requests[i : i + size] for i in range(0, len(requests), size)):
                self._tick()
                if not all(map(self._in_time, part)):
                    return
                self._report(candidate.label, None)
                draws = (Draw(r.seed, r.tried_lr or self._learning_rate(), self._steps(r)) for r in part)
                asked[job := Job(candidate, tuple(draws))] = part
                yield job

    def _steps(self, request: Request) -> int:
        short = request.purpose == "screening"
        return self.settings.screening_steps if short else self.settings.steps

    def _work(self, request: Request) -> float:
        """What a measurement takes, in FLOPs and what is as long as they."""
        share = self._passes(self._steps(request)) / self._passes()
        return self._fixed + share * (self.work[request.candidate] - self._fixed)

    def _in_time(self, request: Request) -> bool:
        """Whether one more measurement will be finished within the time budget.

        The rate is chosen, and the head and one candidate are measured, in any case: no table is empty.
        """
        if request.candidate == HEAD or request.purpose == "tuning":
            return True
        if not any(m.candidate != HEAD and m.status == "done" for m in self._kept.of("contribution")):
            return True
        pace = self._measured_s / self._measured_work if self._measured_s else 0.0
        left = self.settings.time_budget_s - (time.monotonic() - self._start)
        return pace * self._work(request) < left

    def _check_head(self) -> None:
        """
        Raises:
            StudyError: the head alone diverged.
        """
        if diverged := [m for m in self._kept.of("contribution", HEAD) if m.status == "diverged"]:
            raise StudyError(
                f"Training the head alone diverged at lr {self._learning_rate():g}, so there is nothing to "
                f"compare with. {why_diverged(diverged)}"
            )

    def _save(self, request: Request, lr: float, taken: Taken) -> None:
        values: dict[str, Any] = {
            "lr": lr, "target": self._target, "duration_s": taken.duration_s, "finished": time.time(),
        } | dict(taken.values)  # fmt: skip
        saved = self._kept.save(request, values)
        self._measured_s += taken.duration_s
        self._measured_work += self._work(request)
        self._report(request.candidate.label, saved)

    def _learning_rate(self) -> float:
        """The analysis's rate, chosen now if the grid has just been measured.

        Raises:
            StudyError: training diverged at every rate.
        """
        stored = self._kept.lr
        if stored is not None:
            return stored
        tuning = list(self._kept.of("tuning"))
        scores = []
        for rate in {m.lr for m in tuning}:
            tried = [m for m in tuning if m.lr == rate]
            done = [m for m in tried if m.metric is not None]
            # All together may diverge at any rate, or be too large to train: then the others choose.
            if all(m.candidate.is_several for m in tried if m.metric is None):
                sizes = [[m for m in done if m.candidate == size] for size in {m.candidate for m in done}]
                metric = fmean(fmean(m.metric or 0.0 for m in size) for size in sizes)
                loss = fmean(fmean(m.loss or 0.0 for m in size) for size in sizes)
                scores.append((len(done), metric, -loss, rate))
        if not scores:
            rates = listing([f"{r:g}" for r in sorted({m.lr or 0.0 for m in tuning})])
            raise StudyError(
                f"Training diverged at every learning rate tried ({rates}). {why_diverged(tuning)}"
            )
        best = max(scores)[-1]
        assert best is not None
        self._kept.keep_lr(best)
        return best

    def _sizes(self) -> list[Candidate]:
        """What the rate is tuned with: from the fewest tensors that a plan trains to the most."""
        return [HEAD, *self._middle(), *([self._together] if self._together else [])]

    def _middle(self) -> list[Candidate]:
        """The widest-trained weight from the middle of those measured, by depth."""
        depth = {r.fqn: r.depth for r in self.graph.tensors}
        whole = {c.fqn: c for c in sorted(self.candidates, key=lambda c: c.ratio) if c.kind == "weight"}
        ordered = sorted(whole.values(), key=lambda c: depth[c.fqn])
        return ordered[len(ordered) // 2 : len(ordered) // 2 + 1]

    @cached_property
    def _target(self) -> str:
        """Where measurements are taken: asked for, chosen before, or what is faster for these settings."""
        target = self.settings.target
        if target == "auto":
            target = self._kept.target or self._faster_target()
            self._kept.keep_target(target)
        return target

    def _faster_target(self) -> str:
        """Compare eager PyTorch with OpenVINO, compile time counted, on the weight in the middle."""
        plan = self.measurer.plan_of(next(iter(self._middle()), HEAD))
        rate = min(self.settings.grid(self.graph.optimizer.lr))
        amount = len(self.settings.seeds), self.settings.steps, self.measurer.data.validation_count
        totals, notes = {}, {}
        for target in (EagerBackend.target, "openvino"):
            if totals and min(totals.values()) <= COMPILE_PAYS_S:
                break
            self._report(f"timing {target}", None)
            try:
                backend = self.measurer.make_backend(target)
                estimate = TimeEstimate.of(backend, plan, self.settings.seeds[0], rate, self._tick)
            except (UnsupportedOperators, NonFiniteLoss) as e:
                notes[target] = str(e)
                continue
            totals[target] = estimate.total_s(*amount)
            notes[target] = {**asdict(estimate), "total_s": totals[target]}
        self._kept.keep_estimates(notes)
        return min(totals, key=totals.__getitem__)

    # ------------------------------------------------------------------ progress

    def _tick(self) -> None:
        self._lease.check()
        if self._cancel is not None and self._cancel():
            done, total = self._kept.counts()
            raise Cancelled(
                f"The analysis was cancelled after {done} of {total} measurements. They are kept; "
                "call analyze again to go on."
            )

    def _learn_pace(self) -> None:
        """From what earlier calls measured."""
        for request, known in self._kept.known.items():
            if known.duration_s and request.candidate in self.work:
                self._measured_s += known.duration_s
                self._measured_work += self._work(request)

    def _seconds_left(self) -> float | None:
        """What the rest takes one after the other, as far as what was measured tells."""
        left = sum(self._work(r) for r, m in self._kept.known.items() if m.status == "planned")
        return self._measured_s / self._measured_work * left if self._measured_s else None

    def _report(self, label: str, last: Measurement | None) -> None:
        if self._progress is None:
            return
        seconds = self._seconds_left()
        left_s = None if seconds is None else seconds / max(1, self.place.workers)
        self._progress(Progress(*self._kept.counts(), label, left_s, last))
