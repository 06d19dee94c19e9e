"""Train a plan as its study's analysis trained, as a process of its own: `python -m pockui.verify_job`.

A `worker` that reads a `VerifySpec` and writes:

    {"kind": "stage", "text": …}                    what is being done
    {"kind": "progress", "done", "total", "left_s"}  steps and validation batches, a few times a second
    {"kind": "verified", "metric", "trainings", "forecast", "low", "high"}  the forecast is that of before

Asked to end where it trains it ends soon, and the study keeps the training as cancelled.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from .worker import Spec, Stop, run

EVENT_SECONDS = 0.4  # between two reports of progress


@dataclass(frozen=True)
class VerifySpec(Spec):
    """What to verify.

    Attributes:
        reference: `module:task` that makes the Task; the user named it, see `project.named_reference`.
        study: the file of the study, which keeps the trainings.
        plan: a plan's JSON text. name: of its trainings.
    """

    reference: str
    study: str
    plan: str
    name: str


def verify(spec: VerifySpec, report: Callable[..., None], stop: Stop) -> None:
    """Do what `spec` says.

    Raises:
        PockError: from any of the stages; Cancelled where it was asked to end.
    """
    from pockgraph.contribution import Progress
    from pockgraph.plan import Plan
    from pockgraph.study import Study

    from .project import load_task

    report("stage", text="Loading the task")
    task = load_task(spec.reference)
    shown = 0.0

    def progress(now: Progress) -> None:
        nonlocal shown
        if time.monotonic() - shown >= EVENT_SECONDS or now.done >= now.total:
            shown = time.monotonic()
            report("progress", done=now.done, total=now.total, left_s=now.seconds_left)

    with Study(spec.study, task) as study, stop.kept():
        report("stage", text="Comparing gradients with PyTorch")
        found = study.verify(
            Plan.from_json(spec.plan), name=spec.name, progress=progress, cancel=lambda: stop.asked
        )
    metrics = [run.validation_metric for run in found.runs if run.validation_metric is not None]
    report(
        "verified", metric=sum(metrics) / len(metrics), trainings=len(metrics),
        forecast=found.forecast.metric, low=found.forecast.low, high=found.forecast.high,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run(verify, VerifySpec))
