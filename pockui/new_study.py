"""A study that is being made: from a task that somebody named, in a process of its own.

The process belongs to `jobs.py`: a page that is reloaded finds it again. What it has measured is the study's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import param

from pockgraph.errors import PockError, StudyError, suggest
from pockgraph.study import Study

from .info.own_tasks import tasks_in
from .jobs import END_S, JOBS, Job, Jobs
from .project import DEMOS, allow_task, full_reference, named_references
from .scheduling import Scheduler
from .study_job import StudySpec

WORKER = "pockui.study_job"
FOLDER = Path("out")
NAME = re.compile(r"[\w][\w .-]{0,79}")
BUILT_IN = {
    "vision": "Vision: EfficientNet-Lite0 learns handwritten digits",
    "text": "Text: MiniLM learns the sentiment of tweets",
}


class NewStudy(param.Parameterized):
    """Starts a study, and tells when the one that is being made has news."""

    news = param.Integer(default=0, doc="Grows with every event; set on the session's own turn.")

    def __init__(self, scheduler: Scheduler, own_tasks: bool = True, jobs: Jobs = JOBS) -> None:
        """Args:
        own_tasks: whether modules of the folder may be run. Not by those who only know the password.
        """
        super().__init__()
        self._scheduler, self._jobs = scheduler, jobs
        self.own_tasks = own_tasks
        self._forget: Callable[[], Any] = lambda: None
        self.job: Job | None = None
        if running := jobs.running(WORKER):
            self._follow(running[-1])

    @property
    def running(self) -> bool:
        return self.job is not None and self.job.status == "running"

    def choices(self) -> dict[str, str]:
        """For people -> what makes the task."""
        own = tasks_in(Path()) if self.own_tasks else []
        return {text: name for name, text in BUILT_IN.items()} | {name: name for name in own}

    def start(self, reference: str, name: str, thorough: bool) -> None:
        """Make a study, or go on with the one that has that name and is of the same task.

        Args:
            reference: `vision`, `text` or `module:task`.
            name: of the file, in the folder `out`.

        Raises:
            PockError: there is no such module here, the name cannot be a file's, or is another study's.
        """
        if self.running:
            return
        full = self._checked(reference.strip())
        path = checked_path(name.strip(), full)
        allow_task(full)
        spec = StudySpec(full, path.as_posix(), thorough)
        self._follow(self._jobs.start(path.stem, WORKER, spec.to_dict()))

    def go_on(self) -> None:
        """Go on with what was cancelled, or failed."""
        if self.job is not None and not self.running:
            self._follow(self._jobs.start(self.job.title, WORKER, self.job.spec))

    def cancel(self) -> None:
        """End it; the study keeps what was measured."""
        if self.job is not None:
            self.job.cancel(END_S)

    def _checked(self, reference: str) -> str:
        if not reference:
            raise PockError("Name the task: MODULE:TASK, as in my_project:task for a my_project.py here.")
        full = full_reference(reference)
        if full in DEMOS.values() or full in named_references():
            return full
        if not self.own_tasks:
            raise PockError("Others can reach this server: only built-in tasks are measured from here.")
        module = full.partition(":")[0].partition(".")[0]
        if PathFinder.find_spec(module, [os.getcwd()]) is None:
            near = suggest(module, [path.stem for path in Path().glob("*.py")])
            raise PockError(f"There is no module {module!r} in {os.getcwd()}.{near}")
        return full

    def _follow(self, job: Job) -> None:
        self._forget()
        self.job = job
        self._forget = job.listen(lambda: self._scheduler.soon(self._tell))
        self._tell()

    def _tell(self) -> None:
        self.news += 1

    def stop_listening(self) -> None:
        """The session ends; the study is made all the same."""
        self._forget()


def checked_path(name: str, reference: str) -> Path:
    """Where a study of that name is kept.

    Raises:
        PockError: it cannot be a file's name, or something else lies there.
    """
    name = name.removesuffix(".db")
    if not NAME.fullmatch(name):
        raise PockError(f"{name[:80]!r} cannot be a study's name. Take letters, digits, spaces, - and _.")
    path = FOLDER / f"{name}.db"
    if not path.exists():
        return path
    try:
        with Study(path, read_only=True) as study:
            there = study.reference
    except StudyError:
        raise PockError(f"{path} exists, and is no study that can be read. Choose another name.") from None
    if there != reference:
        made = f"of {there}" if there else "of another task"
        raise PockError(f"{path} exists, and is a study {made}. Choose another name.")
    return path
