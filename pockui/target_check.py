"""Asking a target about the current plan: a job of the server that a session follows. No Panel here."""

from __future__ import annotations

from typing import Any

import param

from pockgraph.errors import PockError

from .info.training import target_name
from .jobs import JOBS, Job, Jobs
from .state import State
from .training import Training

WORKER = "pockui.check_job"


class TargetCheck(param.Parameterized):
    """Which operators of the plan a target lacks."""

    news = param.Integer(default=0, doc="Grows with every event; set on the session's own turn.")

    def __init__(self, state: State, training: Training, jobs: Jobs = JOBS) -> None:
        """Args:
        training: knows the task that may be made here.
        """
        super().__init__()
        self._state, self._training, self._jobs = state, training, jobs
        self.job: Job | None = None
        self._stop_listening: Any = lambda: None

    @property
    def why_not(self) -> str:
        """Why no target can be asked here; empty when nothing speaks against it."""
        return self._training.why_not

    @property
    def running(self) -> bool:
        return self.job is not None and self.job.status == "running"

    @property
    def is_current(self) -> bool:
        """Whether the plan is still the one that was asked about."""
        return bool(self.job and self._state.plan and self.job.spec["plan"] == self._state.plan.to_json())

    def start(self, target: str) -> None:
        """Ask about the current plan; nothing while a question is open, or there is no plan.

        Raises:
            PockError: the task cannot be made here.
        """
        s = self._state
        if s.plan is None or self.running:
            return
        if why := self.why_not:
            raise PockError(why)
        spec = {"reference": self._training.reference, "plan": s.plan.to_json(), "target": target}
        self._stop_listening()
        self.job = self._jobs.start(f"{s.facts.name}, {target_name(target)}: operators", WORKER, spec)
        self._stop_listening = self.job.listen(lambda: s.scheduler.soon(self._tell))
        self._tell()

    def stop_listening(self) -> None:
        """The session ends, and nobody waits for the answer."""
        self._stop_listening()
        if self.job is not None:
            self.job.cancel()

    def _tell(self) -> None:
        self.news += 1
