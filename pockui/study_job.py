"""Make a study, or go on with one, as a process of its own: `python -m pockui.study_job`.

A `worker` that reads a `StudySpec` and writes:

    {"kind": "stage", "text": …}                          what is being done
    {"kind": "measured", "done", "total", "text", "left_s"}  measurements
    {"kind": "result", "study": …}                        it can be opened
    {"kind": "stopped", "done", "total"}                  instead of a result, where it was asked to end

Every measurement is kept as soon as it is made.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .project import DEMOS
from .worker import Reporter, Spec, Stop, run

if TYPE_CHECKING:
    from pockgraph.contribution import Progress
    from pockgraph.profile import Profile

QUICK_S = 50.0  # of measurements; loading and compiling come on top


@dataclass(frozen=True)
class StudySpec(Spec):
    """What to measure.

    Attributes:
        reference: `module:task` that makes the Task; the user named it.
        study: the file, made where there is none.
        thorough: measure more than in about a minute.
    """

    reference: str
    study: str
    thorough: bool = False

    @property
    def command(self) -> str:
        """What does the same in a shell."""
        how = [] if self.thorough else ["--quick"]
        return shlex.join(["pockui", "analyze", self.reference, "--study", self.study, *how])


def make(spec: StudySpec, report: Reporter, stop: Stop | None = None) -> None:
    """Do what `spec` says.

    Raises:
        PockError: from any of the stages.
    """
    import pockgraph as pg
    from pockgraph.contribution.measuring import Cancelled

    from .project import load_task

    stop = stop or Stop()
    report("stage", text="Loading the task")
    task = load_task(spec.reference)
    path = Path(spec.study)
    path.parent.mkdir(parents=True, exist_ok=True)
    report("stage", text="Deriving the training graph")
    with pg.Study(path, task, None if path.exists() else pg.SGD(momentum=0.9)) as study:
        profile = study.profile  # made now, so that the study can be opened where there is no model

        def tell(found: Progress) -> None:
            report(
                "measured", done=found.done, total=found.total, text=found.label, left_s=found.seconds_left
            )

        report("stage", text="Measuring what each tensor gains")
        with stop.kept():
            try:
                study.analyze(progress=tell, cancel=lambda: stop.asked, **settings(spec, profile))
            except Cancelled:
                done, total = study.progress()
                report("stopped", done=done, total=total)
                return
    report("result", study=spec.study)


def settings(spec: StudySpec, profile: Profile) -> dict[str, Any]:
    """Keywords for `Study.analyze`."""
    from pockgraph.contribution.candidates import quick_settings

    if not spec.thorough:
        return {**quick_settings(profile), "mode": "mixed", "tensors": None, "time_budget_s": QUICK_S}
    which = next((name for name, reference in DEMOS.items() if reference == spec.reference), None)
    if which is None:
        return {"mode": "mixed"}
    from .demo.settings import settings_for

    return dict(settings_for(which, quick=False, seeds=None).analysis or {})


def _debug(spec: StudySpec) -> str:
    return spec.command.replace("pockui", "pockui --debug", 1)


if __name__ == "__main__":
    sys.exit(run(make, StudySpec, again=_debug))
