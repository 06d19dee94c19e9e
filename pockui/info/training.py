"""A training run as the train view shows it, and the Python that does the same."""

from __future__ import annotations

import importlib.util
import os
import shlex
from collections.abc import Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

from pockgraph.errors import suggest

from . import format as fmt
from .figure_tiles import Tile

# Target -> its name, and the packages that compiling for it and running it need.
RUNTIMES = {
    "openvino": ("OpenVINO", ("openvino",)),
    "onnx": ("ONNX Runtime", ("onnx", "onnxruntime")),
    "torch": ("PyTorch", ("torch",)),
}
PRECISIONS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


def runnable_targets() -> dict[str, str]:
    """Name -> target, for those whose runtime is installed here."""
    return {
        name: target
        for target, (name, packages) in RUNTIMES.items()
        if all(map(importlib.util.find_spec, packages))
    }


def target_name(target: str) -> str:
    """A target as people call it."""
    return RUNTIMES[target][0] if target in RUNTIMES else target


def why_not_trainable(stored: str, reference: str, study: str) -> str:
    """Why the study's task cannot be made here; empty when nothing speaks against it.

    Only looks for the module: a task may take a while to import, and may still fail then.

    Args:
        stored: what the study says makes its task.
        reference: what the user named; empty when nothing was.
        study: the study's file.
    """
    start = "pockui serve {} --task {}"
    if not reference and not stored:
        return (
            "This study does not say where its task comes from: it was made from a Task object and not from "
            "a reference such as my_project:task. To train here, start the dashboard with: "
            f"{start.format(shlex.quote(study), 'MODULE:TASK')}"
        )
    if not reference:
        return (
            f"This study says that its task is {stored!r}. Training would import and run that code, for "
            "which a file's word is not enough. If it is yours, start the dashboard with: "
            f"{start.format(shlex.quote(study), shlex.quote(stored))}"
        )
    module = reference.partition(":")[0]
    package = module.partition(".")[0]
    if not _is_importable(package):
        here = os.getcwd()
        near = suggest(package, [p.stem for p in Path(here).glob("*.py")])
        return (
            f"The task is {reference!r}, and there is no module {package!r} in {here} or among the installed "
            f"packages.{near} Start the dashboard in the folder that holds it, or install it."
        )
    return ""


def _is_importable(package: str) -> bool:
    """In the process that trains, which finds modules of the working folder, however this one was started."""
    if PathFinder.find_spec(package, [os.getcwd()]) is not None:
        return True
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module that is loaded and does not say from where, such as __main__
        return False


class Progress(NamedTuple):
    """How far a run is: `share` is None while that is unknown."""

    text: str
    share: float | None


def progress(events: Sequence[Mapping[str, Any]], steps: int) -> Progress:
    """The newest stage or step of a run."""
    for event in reversed(events):
        if event["kind"] == "stage":
            return Progress(f"{event['text']} …", None)
        if event["kind"] == "loss" and event["step"] < steps:
            left = fmt.duration(event["left_s"])
            each = fmt.milliseconds(event["step_ms"])
            return Progress(
                f"Step {event['step']} of {steps}, {each} each, {left} left", event["step"] / steps
            )
    return Progress("Starting the worker …", None)


def loss_history(events: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[float]]:
    """Steps and losses: as reported while it runs, all of them once it has ended."""
    done = next((e for e in reversed(events) if e["kind"] in ("result", "stopped")), None)
    pairs = done["losses"] if done else [(e["step"], e["loss"]) for e in events if e["kind"] == "loss"]
    return [int(s) for s, _ in pairs], [loss for _, loss in pairs]


def metric_history(events: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[float]]:
    """Steps, and the metric on the first validation samples after each."""
    found = [(int(e["step"]), e["value"]) for e in events if e["kind"] == "validation"]
    return [step for step, _ in found], [value for _, value in found]


def live_tiles(events: Sequence[Mapping[str, Any]], metric: fmt.MetricScale) -> list[Tile]:
    """How a run that goes on is doing: metric, speed, memory and time left, as far as they are known."""
    now = next((e for e in reversed(events) if e["kind"] == "loss"), None)
    evaluated = [e for e in events if e["kind"] == "validation"]
    tiles = []
    if evaluated:
        last = evaluated[-1]
        tiles.append(
            Tile(
                "Validation metric",
                metric.level(last["value"]),
                f"step {last['step']:,}, the first {last['samples']:,} samples",
                "Evaluated between steps, so rarely that it takes a tenth of the time at most.",
                alarm=last["value"] < evaluated[0]["value"],
            )
        )
    if now is not None:
        rate = now["samples_per_s"]
        tiles.append(
            Tile(
                "Speed",
                f"{fmt.milliseconds(now['step_ms'])} a step",
                "" if rate is None else f"{fmt.significant(rate)} samples a second",
                "Mean of the last steps, making their batches included.",
            )
        )
        if now["memory_bytes"] is not None:
            tiles.append(
                Tile(
                    "Memory of the process",
                    fmt.size(now["memory_bytes"]),
                    "now, PyTorch included",
                    "Of the process that trains, as the system counts it. A device needs no PyTorch.",
                )
            )
        tiles.append(
            Tile("Time left", fmt.duration(now["left_s"]), f"loss {fmt.significant(now['loss'], 4)}", "")
        )
    return tiles


def result_tiles(
    events: Sequence[Mapping[str, Any]],
    predicted: Mapping[str, float],
    metric: fmt.MetricScale,
    target: str = "openvino",
    timed: str = "openvino",
    running: bool = True,
) -> list[Tile]:
    """Metric before and after, and what was measured beside what was predicted.

    Args:
        predicted: the plan's figures.
        target: what ran.
        timed: the target that the predicted step time is of.
        running: whether more is to come.
    """
    found = {(e["kind"], e.get("when", "")): e for e in events}
    tiles = []
    before, after = found.get(("metric", "before")), found.get(("metric", "after"))
    if before or after:
        samples = (before or after or {})["samples"]
        values = [metric.level(e["value"]) for e in (before, after) if e]
        known = f"{samples:,} samples" if samples else "the task's test data"
        if before and not after:
            values += ["…"] if running else []
            known = known if running else "before training; not evaluated after"
        tiles.append(
            Tile(
                "Metric, held out",
                " → ".join(values),
                known,
                "Before and after these steps, on the task's `eval` data.",
                alarm=bool(before and after and after["value"] < before["value"]),
            )
        )
    measured = found.get(("measured", ""))
    if measured:
        of = "" if target == timed else f" for {target_name(timed)}"
        tiles.append(
            Tile(
                "Step time, measured",
                fmt.milliseconds(measured["step_ms"]),
                f"predicted {fmt.milliseconds(predicted.get('step_ms'))}{of}",
                f"Median of {measured.get('steps') or 'some'} steps in a fresh process.",
            )
        )
        tiles.append(
            Tile(
                "Memory, measured",
                fmt.size(measured.get("over_imported_bytes")),
                f"modelled {fmt.size(predicted.get('peak_bytes'))}",
                "Measured: what loading and training add to a process that has imported its libraries; "
                "runtime and allocator included. Modelled: live tensors at the worst moment, nothing else.",
            )
        )
    return tiles
