"""A run that a study keeps, as the process that trained it told of it: the page shows both in one way."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pockgraph.errors import PockError

from . import format as fmt

if TYPE_CHECKING:
    from pockgraph.study import Run

Event = dict[str, Any]


@dataclass(frozen=True)
class KeptRun:
    """What `jobs.Job` has, of a run that no job of this server is.

    Attributes:
        id: the run's uid.
        spec: what was asked for, with the names of `train_job.TrainSpec`.
    """

    id: str
    title: str
    status: str
    error: str
    seconds: float | None
    events: tuple[Event, ...]
    spec: Mapping[str, Any]

    def last(self, kind: str) -> Event | None:
        return next((e for e in reversed(self.events) if e["kind"] == kind), None)


def run_title(run: Run) -> str:
    """`Run 3 · 12 tensors, seed 0 · PyTorch · 27 Nov 14:03`, with how it ended unless that is well."""
    from .training import target_name

    when = time.strftime("%d %b %H:%M", time.localtime(run.created)).lstrip("0")
    ended = "" if run.status == "done" else f" · {run.status}"
    name = f" · {run.name}" if run.name else ""
    return f"Run {run.id}{name} · {target_name(run.target)} · {when}{ended}"


def kept_run(run: Run, folder: Path) -> KeptRun:
    """A run from its study.

    Args:
        folder: the study's, from which the run's paths are told.
    """
    out, checkpoint = (folder / path if path else None for path in (run.artifact, run.checkpoint))
    events: list[Event] = []
    compiled = None if out is None else _compiled(out)
    events += [compiled] if compiled else []
    test = run.data.get("test")
    for when, value in (("before", run.baseline), ("after", run.metric)):
        if value is not None:
            events.append({"kind": "metric", "when": when, "value": value, "samples": test and test.samples})
    losses = [[run.began_at + i, loss] for i, loss in enumerate(run.losses, 1)]
    events += [
        {"kind": "validation", "step": step, "value": value, "samples": None}
        for step, value in run.validation_curve
    ]
    if run.measured.get("step_ms") is not None:
        events.append({"kind": "measured", **run.measured})
    trained = run.began_at + run.steps
    kept = str(checkpoint) if checkpoint is not None and checkpoint.is_file() else ""
    kind = "result" if run.status == "done" else "stopped"
    events.append({"kind": kind, "checkpoint": kept, "steps": trained, "losses": losses})
    spec = {
        "plan": run.plan.to_json(), "target": run.target, "steps": run.planned_steps or trained,
        "out": "" if out is None else str(out.resolve()), "lr": run.lr, "seed": run.seed, "optimizer": {},
        "device": run.device, "precision": compiled["precision"] if compiled else "f32",
    }  # fmt: skip
    return KeptRun(run.uid, run_title(run), run.status, run.error, run.duration_s, tuple(events), spec)


def _compiled(folder: Path) -> Event | None:
    """What the artefact in a folder says; None where there is none any more."""
    from pockgraph.runtime.artifact_files import read_manifest

    try:
        manifest = read_manifest(folder)
    except (PockError, OSError):
        return None
    return {
        "kind": "compiled", "path": str(folder.resolve()), "seconds": None,
        "bytes": sum(file.bytes for file in manifest.files.values()), "predicted": manifest.predicted,
        "parity": manifest.parity_json, "precision": manifest.options.get("precision", "f32"),
    }  # fmt: skip


def ended_text(
    status: str, events: tuple[Event, ...] | list[Event], steps: int, seconds: float | None
) -> str:
    """How a run ended: `Cancelled after step 40 of 100, 12 s.`

    Args:
        steps: at which it was to end.
    """
    took = "" if seconds is None else fmt.duration(seconds)
    if status == "done":
        return f"Done in {took}." if took else "Done."
    reached = steps_taken(events)
    word = {"failed": "Failed", "running": "Training elsewhere:"}.get(status, "Cancelled")
    if not reached:
        return f"{word} before the first step{f', after {took}' if took else ''}."
    after = "" if status == "running" else " after"
    return f"{word}{after} step {reached:,} of {steps:,}{f', {took}' if took else ''}."


def steps_taken(events: tuple[Event, ...] | list[Event]) -> int:
    """The last step that was taken."""
    for event in reversed(events):
        if event["kind"] in ("result", "stopped"):
            return int(event["steps"])
        if event["kind"] == "loss":
            return int(event["step"])
    return 0
