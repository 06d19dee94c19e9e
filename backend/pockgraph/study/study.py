"""Study: everything known about one task, in one file.

A study is an SQLite database: what the task is, its profile, measured contributions, plans, and runs.
It can be read, searched and planned with where torch is absent; only measuring needs the task.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..contribution import Contribution, Progress
from ..errors import StudyError, require
from ..notebook_html import summary
from ..notebook_progress import check_progress, told
from ..plan import Plan
from ..store.store import Store, study_path

if TYPE_CHECKING:
    from ..contribution.candidates import Mode
    from ..optimizer import Optimizer
    from ..profile import Profile
    from ..search.constraints import Constraints, Lock
    from ..search.plan_search import Budget, Method, Objective
    from ..task import Task
    from .verification import Verification
from .analysis_records import AnalysisRecords
from .kept_devices import KeptDevices, on_device
from .records import facts
from .study_task import StudyTask

OPENED_WITH: set[str] = set()  # references of the tasks that this process opened studies with
MOST_WORKERS = 1024
MAKE_PROFILE = (
    "Restore the study from a copy. In Python, one that is open with its task can make the profile again: "
    "study.save_profile(pockgraph.profile.profiler.profile_of(study.graph))."
)


class Study(KeptDevices, AnalysisRecords, StudyTask):
    """A durable record of one task.

    Args:
        path: the file, made when it does not exist.
        task: needed to make a study and to measure. The study must be this task's.
        optimizer: what plans train with; `SGD` by default. An existing study keeps its own.
        read_only: leave an existing file as it is; one that an older release made keeps its tables.

    Attributes:
        path: the file. name: the task's. reference: `module:name` that makes the task, or empty.

    Raises:
        StudyError: the file is no study, is damaged, or belongs to another task (with the differences).

    Example:
        >>> study = Study("digits.db", task)
        >>> study.analyze(steps=100, seeds=(0, 1, 2))
        >>> plan = study.search(Budget(peak_bytes=50_000_000))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        task: Task | None = None,
        optimizer: Optimizer | None = None,
        *,
        read_only: bool = False,
    ) -> None:
        self.path = study_path(path)
        if task is not None:
            from ..task import Task

            require(
                StudyError, "task", task, Task, "Pass a pockgraph.Task: the model with its loss and data."
            )
        if optimizer is not None:
            from ..optimizer import Optimizer

            require(StudyError, "optimizer", optimizer, Optimizer, "Pass one such as pockgraph.SGD(lr=0.1).")
        super().__init__(task, optimizer)
        if task is not None and task.reference:
            OPENED_WITH.add(task.reference)
        empty = self.path.is_file() and not self.path.stat().st_size
        if task is not None and not read_only and (empty or not self.path.exists()):
            graph = self._build()
            self._store = Store.create(self.path, facts(graph))
        else:
            self._store = Store(self.path, read_only=read_only)
        self.facts: Mapping[str, Any] = self._checked_facts()
        if task is not None:
            self._check_same(task)

    # ------------------------------------------------------------------ what is known

    @property
    def profile(self) -> Profile:
        """What each tensor costs, on the device that plans are made for, where there is one.

        Raises:
            StudyError: it was never made, and there is no task to make it from.
        """
        return self.profile_on(self.used_device)

    def profile_on(self, device: str | None) -> Profile:
        """What each tensor costs on a device; None: as the profile itself says.

        Raises:
            StudyError: as `profile`, or the study has no such device.
        """
        require(StudyError, "device", device or "", str, "Pass the name of one that the study keeps.")
        own = self._own_profile()
        if device is None:
            return own
        key = f"profile on {device}"
        return self._cached("profile", lambda: on_device(own, self.device(device)), key)

    def _own_profile(self) -> Profile:
        from ..profile import Profile

        if self._store.document("profile") is None:
            from ..profile.profiler import profile_of

            made = profile_of(self.graph)
            if not self._store.writable:
                return self._cached("profile", lambda: made)
            self.save_profile(made)

        def read() -> Profile:
            with self._store.decoding("its profile", MAKE_PROFILE):
                return Profile.from_json(self._store.document("profile") or "")

        return self._cached("profile", read)

    def _renew_profile(self) -> None:
        """Make a profile again that an earlier version made without the layers of operators."""
        if self._store.document("profile") is None or self._own_profile().has_layers:
            return
        from ..profile.profiler import profile_of

        old = self._own_profile()
        self.save_profile(replace(profile_of(self.graph), time=old.time, memory=old.memory))

    def save_profile(self, profile: Profile) -> None:
        """Replace the profile, for example by one with measured times."""
        from ..profile import Profile

        require(StudyError, "profile", profile, Profile, "Pass what `Study.profile` holds, or a variant.")
        with self._store.transaction("profile") as write:
            write.execute(
                "INSERT INTO documents VALUES ('profile', ?, ?) "
                "ON CONFLICT DO UPDATE SET json = excluded.json, changed = excluded.changed",
                (profile.to_json(), time.time()),
            )

    # ------------------------------------------------------------------ measuring and planning

    def analyze(
        self,
        *,
        steps: int = 100,
        seeds: Sequence[int] = (0,),
        ratios: Sequence[float] = (1.0, 0.5, 0.25, 0.125),
        tensors: str | Sequence[str] | None = None,
        bias_counts: Sequence[int] | None = None,
        lr: float | Sequence[float] | None = None,
        target: str = "auto",
        batches: int | None = None,
        cache_bytes: int | None = None,
        mode: Mode = "measured",
        time_budget_s: float | None = None,
        progress: Callable[[Progress], None] | bool | None = None,
        cancel: Callable[[], bool] | None = None,
        force: bool = False,
        workers: int | None = None,
        executor: Executor | None = None,
    ) -> Contribution:
        """Measure what each tensor is worth; goes on where an earlier call with these settings ended.

        `Study.coverage` says what was measured and what was not.

        Args:
            steps: training steps of each measurement.
            seeds: each draws a fresh head and an order of batches, for all candidates alike.
            ratios: shares of channels to try for each weight.
            tensors: globs of weights; None takes all outside the head.
            bias_counts: values of k for "the last k biases"; None takes up to 8 ends of blocks; `()` none.
            lr: the rate, or rates to choose from; None tries five around the optimizer's own. One rate is
                chosen for all measurements: see `analysis.py`.
            target: `"torch"` (in this process), `"openvino"`, or `"auto"`: what is faster, compiling
                included.
            batches: at most so many validation batches.
            cache_bytes: memory for activations below the trained tensors; 1 GiB by default, 0 keeps none.
            mode: `"measured"`: train everything that is asked for. `"probe"`: train the head alone, and score
                all tensors at all ratios from gradients, in seconds: see `Study.scores`. Its rate is `lr`, or
                the optimizer's own: it tries no others. `"mixed"`: score all, and train what could change the
                plans for some budgets, until they settle; see `contribution/mixed_schedule.py`.
            time_budget_s: begin no measurement that would take longer than this, in seconds from now. The
                rate is chosen, and the head alone and one candidate are measured, in any case.
            progress: called at least once a measurement. True: a progress bar; False: nothing; None: a bar in
                notebooks, where tqdm and ipywidgets are installed, elsewhere nothing.
            cancel: asked after each step; True ends the analysis within about a step.
            force: measure although the graph's gradients deviate from eager PyTorch's.
            workers: measure so many candidates at once, each in a process of its own that makes the task from
                its `reference`; 1: in this process. None takes processes where there are four cores or more,
                memory for the processes, and minutes to do. `cache_bytes` is for each. The numbers are the
                same, to the rounding of another number of threads.
            executor: takes the measurements instead; jobs and results are pickled. `workers` then says how
                many jobs it works on at once. For a Dask cluster see `pockgraph.workers.cluster`.

        Raises:
            ParityError: the gradients that it would train with are not those of the task's own module.
            StudyError: another process is analysing, the settings make no sense, a measurement failed, or
                other processes cannot make the same task.
            Cancelled: `cancel` said so (see `analysis.py`); what was measured is kept.
        """
        from ..contribution.analysis import analyze
        from ..contribution.candidates import Settings

        settings = Settings.of(
            steps=steps, seeds=seeds, ratios=ratios, tensors=tensors, bias_counts=bias_counts, lr=lr,
            target=target, batches=batches, cache_bytes=cache_bytes, mode=mode, time_budget_s=time_budget_s,
        )  # fmt: skip
        check_progress(progress)
        _check_cancel(cancel)
        if workers is not None and not (isinstance(workers, int) and 1 <= workers <= MOST_WORKERS):
            raise StudyError(
                f"workers={str(workers)[:40]!r} must be a whole number from 1 to {MOST_WORKERS}, or left out."
            )
        if executor is not None:
            what = "Pass one such as concurrent.futures.ProcessPoolExecutor(), or leave it out."
            require(StudyError, "executor", executor, Executor, what)
        task = self._needed_task()
        self._renew_profile()
        if settings.mode == "probe" and not isinstance(settings.lr, int | float):
            settings = replace(settings, lr=self.graph.optimizer.lr)
        choose = None
        if settings.mode == "mixed":
            from .candidates_in_plans import chooser

            choose = chooser(self.profile)
        with told(progress, "Measuring contribution") as tell:
            analyze(self._store, task, self.graph, settings, tell, cancel, force, choose, workers, executor)
        return self.contribution

    def verify(
        self,
        plan: Plan | str,
        *,
        seeds: Sequence[int] | None = None,
        target: str | None = None,
        name: str = "",
        progress: Callable[[Progress], None] | bool | None = None,
        cancel: Callable[[], bool] | None = None,
        force: bool = False,
    ) -> Verification:
        """Train a plan for real and compare its gain with the forecast; the runs are kept, and count in
        the next forecast.

        It is trained as the last analysis trained: the same batches, steps, rate, fresh heads and validation
        data. The test data is not read.

        Args:
            plan: or the name of one that the study keeps.
            seeds: one training each; None takes the analysis's. The head alone is trained with those that
                it lacks.
            target: `"torch"`, `"openvino"` or `"onnx"`; None takes the analysis's.
            name: of the runs; the plan's, if left out.
            progress: called after every step and validation batch; or a bar, as `analyze` has it.
            cancel: asked as often; True ends it.
            force: train although the graph's gradients deviate from eager PyTorch's.

        Raises:
            StudyError: nothing was measured yet, or the study was opened without its task.
            PlanError: the plan is another model's.
            ParityError: the gradients that it would train with are not those of the task's own module.
            NonFiniteLoss: training diverged; the run is kept as failed.
            Cancelled: `cancel` said so (see `analysis.py`); what was trained is kept.
        """
        require(StudyError, "plan", plan, (Plan, str), "Pass a Plan, or the name of a kept one.")
        require(StudyError, "name", name, str, "Pass a text, or leave it out.")
        require(StudyError, "target", target or "", str, "Pass one such as 'openvino', or leave it out.")
        check_progress(progress)
        _check_cancel(cancel)
        if isinstance(plan, str):
            name = name or plan
            plan = self.plan(plan)
        analysis, _ = self._last_analysis()
        self._needed_task()
        self.check_writable()
        from .verification import checked_seeds, verify

        conditions = self._conditions(analysis)
        name = name or plan.provenance.get("made_by", "") or f"{len(plan.tensors)} tensors"
        seeds = checked_seeds(seeds)
        with told(progress, "Training the plan") as tell:
            return verify(
                self, plan, conditions, name=name, seeds=seeds, target=target, progress=tell, cancel=cancel,
                force=force,
            )  # fmt: skip

    def search(
        self,
        budget: Budget,
        locked: Mapping[str, Lock] | None = None,
        constraints: Constraints | None = None,
        method: Method = "exact",
        seed: int = 0,
        objective: Objective = "mean",
        device: str | None = None,
    ) -> Plan:
        """The plan of the best forecast within a budget.

        Args:
            locked: name, glob or `re:` regular expression -> ratio that the plan must have (0 or
                `"frozen"`: not trained; `"free"`: the search decides).
            constraints: what else the plan must keep to.
            method: `"exact"`, or `"evolutionary"`: the paper's, for comparison; it needs pymoo.
            seed: of the evolutionary search.
            objective: `"mean"`, or `"lower_bound"`: what is uncertain counts less, see `search`.
            device: whose costs count; the one that the study uses, if left out.

        Raises:
            BudgetError: no plan meets the budget; it names the smallest that one does.
            PlanError: a lock matches no tensor.
            StudyError: nothing was measured yet, or there is no such device.
        """
        from ..search import search

        profile = self.profile_on(device or self.used_device)
        return search(
            profile, self.forecaster, budget, locked=locked, constraints=constraints, method=method,
            seed=seed, objective=objective,
        )  # fmt: skip

    def frontier(
        self,
        n: int = 20,
        by: str = "peak_bytes",
        constraints: Constraints | None = None,
        device: str | None = None,
    ) -> list[Plan]:
        """Up to `n` plans, each the best for its cost, by what a budget may limit.

        Args:
            device: as for `search`.
        """
        from ..search import frontier

        profile = self.profile_on(device or self.used_device)
        return frontier(profile, self.forecaster, n, by, constraints=constraints)

    def __repr__(self) -> str:
        done, planned = self.progress()
        return f"Study({str(self.path)!r}, task {self.name!r}, {done} of {planned} measurements)"

    def _repr_html_(self) -> str:
        runs = list(self.runs())
        rows = [("plan", name, repr(plan)) for name, plan in self.plans().items()]
        rows += [("run", run.origin, f"{run.status}, {run.steps} steps") for run in reversed(runs)]
        said, gains = "", []
        if self.progress()[0]:
            weights = self.contribution.weights.values()
            gains = [max(g.mean for g in of.values()) for of in weights if of]
            said = "largest gain of each weight, as measured"
        return summary(repr(self), ("", "name", "what"), rows, gains, said)


def _check_cancel(cancel: Callable[[], bool] | None) -> None:
    """
    Raises:
        StudyError: it cannot be called.
    """
    if cancel is not None and not callable(cancel):
        raise StudyError(f"cancel={str(cancel)[:40]!r} cannot be called. Pass a function, or leave it out.")
