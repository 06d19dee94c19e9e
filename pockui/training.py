"""The training run that a session starts and follows. The run itself belongs to `jobs.py`."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import param

from pockgraph.errors import PockError, reason

from .info.names import file_name
from .info.training import why_not_trainable
from .jobs import JOBS, Job, Jobs
from .project import named_reference
from .state import State
from .train_job import TrainSpec, checkpoint_of, drop_folder

WORKER = "pockui.train_job"
KILL_S = 2  # in which a killed process is gone


class Training(param.Parameterized):
    """Starts runs with the state's plan, and tells when the one that is followed has news."""

    job_id = param.String(doc="The run that is followed; a page that is reloaded sets it again.")
    news = param.Integer(default=0, doc="Grows with every event of the run; set on the session's own turn.")

    def __init__(self, state: State, jobs: Jobs = JOBS, out: Path = Path("out")) -> None:
        """Args:
        out: where artefacts are written.
        """
        super().__init__()
        self._state, self._jobs, self._out = state, jobs, out
        self._forget: Callable[[], Any] = lambda: None
        self.job: Job | None = None

    @property
    def running(self) -> bool:
        return self.job is not None and self.job.status == "running"

    @property
    def reference(self) -> str:
        """The task that would be trained, as its user named it; empty if nobody did."""
        return named_reference(self._state.facts.reference)

    @property
    def why_not(self) -> str:
        """Why no run can be started; empty when nothing speaks against it."""
        facts = self._state.facts
        return why_not_trainable(facts.reference, self.reference, str(facts.path))

    def start(self, target: str, steps: int, lr: float | None = None, measure: bool = True) -> None:
        """Begin a run with the current plan; nothing while one goes on, or there is no plan.

        Args:
            lr: learning rate; None takes the plan's.
            measure: also measure time and memory afterwards.

        Raises:
            PockError: the task cannot be made here, or there is no place for the artefact.
        """
        s = self._state
        if s.plan is None or self.running:
            return
        if why := self.why_not:
            raise PockError(why)
        job = self._jobs.start(
            f"{s.facts.name}, {len(s.plan.tensors)} tensors",
            WORKER,
            TrainSpec(
                reference=self.reference,
                plan=s.plan.to_json(),
                target=target,
                out=str(self.folder(target)),
                steps=steps,
                lr=lr,
                measure=measure,
                study=str(s.facts.path),
            ).to_dict(),
        )
        self.follow(job.id)

    def cancel(self) -> None:
        """End the run; its folder goes away when no artefact is in it yet."""
        job = self.job
        if job is None or job.status != "running":
            return
        job.cancel()
        with suppress(subprocess.TimeoutExpired):
            job.wait(KILL_S)
        drop_folder(job.spec["out"])

    def follow(self, id: str) -> bool:
        """Follow a run that is in the registry; False if there is none of that id."""
        job = self._jobs.get(id)
        if job is None:
            return False
        self._forget()
        self.job = job
        scheduler = self._state.scheduler
        # The first is called in the job's thread.
        self._forget = job.listen(lambda: scheduler.soon(self._tell))
        self.job_id = job.id
        self._tell()
        return True

    def _tell(self) -> None:
        self.news += 1

    def stop_listening(self) -> None:
        """The session ends; the run goes on."""
        self._forget()

    def folder(self, target: str) -> Path:
        """A folder for an artefact, made at once: no other session, nor another server, gets the same.

        Raises:
            PockError: it cannot be made.
        """
        name = f"{file_name(self._state.facts.name)}-{target}"
        folder, number = self._out / name, 1
        while True:
            try:
                if not checkpoint_of(folder).exists():
                    folder.mkdir(parents=True)
                    return folder
            except FileExistsError:
                pass
            except OSError as e:
                raise PockError(
                    f"Cannot make the folder {folder}: {reason(e)}. Start the dashboard where you may write."
                ) from None
            number += 1
            folder = self._out / f"{name}-{number}"


def learning_rate(typed: str) -> float | None:
    """What was typed into a field; None for nothing.

    Raises:
        ValueError: it is no number above 0.
    """
    text = typed.strip()
    if not text:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"{text!r} is no learning rate. Type a number above 0, or leave the field empty.")
    return rate
