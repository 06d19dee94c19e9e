"""The training run that a session starts and follows.

A run that goes on belongs to `jobs.py`, one that has ended to the study.
"""

from __future__ import annotations

import secrets
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import param

from pockgraph.errors import PockError, reason

from .devices_here import HERE, DevicesHere
from .info.kept_run import KeptRun, kept_run
from .info.names import file_name
from .info.optimizers import same_rule
from .info.train_settings import TrainSettings, read_settings
from .info.training import target_name, why_not_trainable
from .jobs import END_S, JOBS, Job, Jobs
from .kept import Kept, read_kept
from .project import named_reference
from .state import State
from .train_job import TrainSpec, checkpoint_of, drop_folder

WORKER = "pockui.train_job"


class Training(param.Parameterized):
    """Starts runs with the state's plan, and tells when the one that is followed has news."""

    settings = param.ClassSelector(
        class_=TrainSettings, default=TrainSettings(), doc="How the next run trains; the address has them."
    )
    job_id = param.String(doc="The run that is followed; a page that is reloaded sets it again.")
    news = param.Integer(default=0, doc="Grows with every event of the run; set on the session's own turn.")

    def __init__(
        self, state: State, jobs: Jobs = JOBS, out: Path = Path("out"), devices: DevicesHere = HERE
    ) -> None:
        """Args:
        out: where artefacts are written.
        devices: those that there are to train on.
        """
        super().__init__()
        self._state, self._jobs, self._out = state, jobs, out
        self.devices = devices
        self._forget: Callable[[], Any] = lambda: None
        self.job: Job | KeptRun | None = None

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

    @property
    def kept(self) -> Kept:
        """What the study keeps; nothing where it cannot be read any more."""
        try:
            return read_kept(self._state.facts.path)
        except PockError:
            return Kept()

    @property
    def is_resumable(self) -> bool:
        """Whether the run that is followed has ended early, and kept weights to go on from."""
        job = self.job
        if job is None or self.running or not job.spec["out"] or not job.last("compiled"):
            return False
        stopped = job.last("stopped")
        return bool(stopped and stopped["checkpoint"] and stopped["steps"] < job.spec["steps"])

    def start(self) -> None:
        """Begin a run with the current plan and settings; nothing while one goes on, or there is no plan.

        Raises:
            PockError: the task cannot be made here, or there is no place for the artefact.
        """
        s, asked = self._state, self.settings
        if s.plan is None or self.running:
            return
        if why := self.why_not:
            raise PockError(why)
        optimizer = asked.optimizer_for(s.plan.optimizer)
        self._begin(
            TrainSpec(
                reference=self.reference,
                plan=s.plan.to_json(),
                target=asked.target,
                out=str(self.folder(asked.target)),
                steps=asked.steps,
                lr=asked.lr,
                measure=asked.measure,
                study=str(s.facts.path),
                run=secrets.token_hex(16),
                optimizer={} if same_rule(optimizer, s.plan.optimizer) else optimizer,
                device=asked.device,
                precision=asked.precision,
            )
        )

    def resume(self) -> None:
        """Go on with the run that is followed, from the weights that it has kept, as another run.

        How it trains stays as it was: only what is measured afterwards is as the settings say now.

        Raises:
            PockError: it has kept none, or the task cannot be made here.
        """
        job = self.job
        if why := self.why_not:
            raise PockError(why)
        if job is None or not self.is_resumable:
            raise PockError("This run has kept nothing to go on from. Train the plan anew.")
        asked, stopped = job.spec, job.last("stopped") or {}
        self._begin(
            TrainSpec(
                reference=self.reference,
                plan=asked["plan"],
                target=asked["target"],
                out=asked["out"],
                steps=asked["steps"],
                lr=asked["lr"],
                seed=asked["seed"],
                measure=self.settings.measure,
                study=str(self._state.facts.path),
                run=secrets.token_hex(16),
                resume=stopped["checkpoint"],
                optimizer=asked["optimizer"],
                device=asked["device"],
                precision=asked["precision"],
            )
        )

    def _begin(self, spec: TrainSpec) -> None:
        title = f"{self._state.facts.name}, {target_name(spec.target)}"
        self.follow(self._jobs.start(title, WORKER, spec.to_dict(), spec.run).id)

    def cancel(self) -> None:
        """End the run, which keeps what it has trained; a folder without an artefact goes away."""
        job = self.job
        if not isinstance(job, Job) or job.status != "running":
            return
        job.cancel(END_S)

        def clean() -> None:
            with suppress(subprocess.TimeoutExpired):
                job.wait(END_S)
            drop_folder(job.spec["out"])

        threading.Thread(target=clean, name="pockui-clean", daemon=True).start()

    def follow(self, id: str) -> bool:
        """Follow a run that this server trains or trained, or one that the study keeps.

        Args:
            id: the job's, which is the run's `uid`.

        Returns:
            False if there is none.
        """
        job = self._jobs.get(id)
        if job is None and (run := self.kept.run(id)) is not None:
            job = kept_run(run, self._state.facts.path.parent)
        if job is None:
            return False
        self._forget()
        self._forget = lambda: None
        self.job = job
        scheduler = self._state.scheduler
        if isinstance(job, Job):  # the first is called in the job's thread
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


def open_settings(training: Training, text: str) -> list[str]:
    """Have a training's settings be as an address says; returns what is wrong with that, in sentences."""
    try:
        training.settings = read_settings(text)
    except PockError as e:
        return [str(e)]
    return []
