"""The verification that a session starts and follows: the current plan, trained as the analysis trained.

One goes on for each study at a time, for all sessions of this server. Its result is not kept here: it lands
in the study, where every session finds it (`watching.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import param

from pockgraph.errors import PockError
from pockgraph.plan import Plan, Trained
from pockgraph.study.trained_plans import measured_ratios

from .info.training import why_not_trainable
from .info.verification import ended_text, running_text, trained_text
from .jobs import END_S, JOBS, Job, Jobs
from .project import named_reference
from .state import State
from .verify_job import VerifySpec

WORKER = "pockui.verify_job"


class Verifying(param.Parameterized):
    """Starts verifications of the state's plan, and tells when the one that is followed has news."""

    news = param.Integer(default=0, doc="Grows with every event; set on the session's own turn.")

    def __init__(self, state: State, jobs: Jobs = JOBS) -> None:
        super().__init__()
        self._state, self._jobs = state, jobs
        self._forget: Callable[[], Any] = lambda: None
        self.job: Job | None = None
        self._verified: Mapping[str, Trained] = {}  # of the plan that it trains
        job = self._known()
        if job is not None and job.status == "running":
            self._follow()

    @property
    def running(self) -> bool:
        return self.job is not None and self.job.status == "running"

    @property
    def result(self) -> str:
        """What goes on; else what is known of the current plan, from this job or the study; or nothing."""
        s, job = self._state, self.job
        if job is not None and job.status == "running":
            return running_text(job.events)
        if s.plan is None:
            return ""
        if job is not None and self._is_of_current_plan and job.status != "failed":
            return ended_text(job.status, job.last("verified"), s.facts.metric)
        ratios = measured_ratios(s.plan, s.facts.contribution)
        metrics = next((t.metrics for t in s.facts.trained if t.ratios == ratios), ())
        return trained_text(metrics, s.facts.metric) if metrics else ""

    @property
    def problem(self) -> str:
        """Why training the current plan failed; empty if it did not."""
        job = self.job
        return job.error if job is not None and job.status == "failed" and self._is_of_current_plan else ""

    @property
    def _is_of_current_plan(self) -> bool:
        plan = self._state.plan
        return plan is not None and plan.tensors == self._verified

    @property
    def why_not(self) -> str:
        """Why no plan can be verified; empty when nothing speaks against it."""
        facts = self._state.facts
        return why_not_trainable(facts.reference, named_reference(facts.reference), str(facts.path))

    def start(self) -> None:
        """Train the current plan; nothing while there is none.

        Raises:
            PockError: the task cannot be made here, or another verification of this study goes on.
        """
        s = self._state
        if s.plan is None:
            return
        if why := self.why_not:
            raise PockError(why)
        self._follow()
        if self.running:
            raise PockError("A plan of this study is being verified. Wait until it is, or cancel that.")
        spec = VerifySpec(
            named_reference(s.facts.reference), str(s.facts.path), s.plan.to_json(),
            f"{len(s.plan.tensors)} tensors",
        )  # fmt: skip
        self._jobs.start(f"{s.facts.name}, verification", WORKER, spec.to_dict(), _id(s.facts.path))
        self._follow()

    def cancel(self) -> None:
        """End it; the study keeps the trainings that were finished."""
        if self.job is not None:
            self.job.cancel(END_S)

    def stop_listening(self) -> None:
        """The session ends; the verification goes on."""
        self._forget()

    def _known(self) -> Job | None:
        """The one that goes on, or ended last, of the study that is looked at."""
        return self._jobs.get(_id(self._state.facts.path)) if self._state.ready else None

    def _follow(self) -> None:
        job = self._known()
        if job is not None and job is not self.job:
            self._forget()
            self.job, scheduler = job, self._state.scheduler
            self._verified = Plan.from_json(job.spec["plan"]).tensors
            self._forget = job.listen(lambda: scheduler.soon(self._tell))
            self._tell()

    def _tell(self) -> None:
        self.news += 1


def _id(study: Path) -> str:
    return f"verify {study}"
