"""How commands are given what they work on: a task, a plan by file or by name, a study."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pockgraph.errors import PlanError, PockError, suggest

from .output import say

if TYPE_CHECKING:
    from pockgraph import Plan, Study, TrainGraph
    from pockgraph.measure.device_profile import DeviceProfile
    from pockgraph.optimizer import Optimizer

TaskArgument = Annotated[
    str, typer.Argument(metavar="MODULE:TASK", help="A Task or a function that returns one; or vision, text.")
]
NAMED_PLANS = ("head", "full", "preset", "biases:K")


def graph_and_plan(task: str, plan: str, rule: Callable[[], Optimizer]) -> tuple[TrainGraph, Plan]:
    """A task's training graph, and a plan file or named plan.

    Args:
        rule: makes the optimizer of a named plan; a file brings its own.

    Raises:
        PockError: no such task, plan or optimizer, or a task that cannot be trained.
    """
    from pockgraph import build
    from pockgraph.optimizer import optimizer_from_dict

    from ..project import load_task

    say(f"Loading {task} …")
    loaded = load_task(task)
    from_file = file_plan(plan)
    optimizer = rule() if from_file is None else optimizer_from_dict(from_file.optimizer)
    say("Deriving the training graph …")
    graph = build(loaded, optimizer)
    return graph, from_file or named_plan(graph, plan)


def open_study(path: Path, *, read_only: bool = False) -> Study:
    """An existing study, without its task."""
    from pockgraph import Study

    if not os.path.lexists(path):
        near = suggest(path.name, [p.name for p in path.parent.glob("*.db")])
        raise PockError(
            f"There is no study {path}.{near} Make one with: pockui analyze MODULE:TASK --study {path}"
        )
    return Study(path, read_only=read_only)


def study_with_task(path: Path, task: str | None) -> Study:
    """A study opened with its task, which the user named.

    Raises:
        PockError: nobody said what makes the task.
    """
    from pockgraph import Study

    from ..project import load_task, named_reference

    stored = open_study(path)
    reference = task or named_reference(stored.reference)
    stored.close()
    if not reference:
        why = (
            f"This study says that its task is {stored.reference!r}; training runs that code, for which a "
            f"file's word is not enough. If it is yours, say so with --task {stored.reference}"
            if stored.reference
            else "This study does not say what makes its task. Name it with --task MODULE:TASK."
        )
        raise PockError(why)
    say(f"Loading {reference} …")
    return Study(path, load_task(reference))


def tell_if_stale(device: DeviceProfile | None) -> None:
    """Say so when this machine is not in the state that it was measured in."""
    from pockgraph.measure.device_profile import THIS_MACHINE

    if device is not None and device.name == THIS_MACHINE and (changed := device.change_since()):
        say(
            f"What {device.name!r} took may be out of date: {changed}. Measure again when the machine is as "
            "it will be in use: pockui device measure"
        )


def named_plan(graph: TrainGraph, name: str) -> Plan:
    """`head`, `full`, `preset` or `biases:K`.

    Raises:
        PlanError: none of these.
    """
    from pockgraph.plan import Plan

    rules = {"head": Plan.head, "full": Plan.full, "preset": Plan.preset}
    if name in rules:
        return rules[name](graph)
    kind, _, count = name.partition(":")
    if kind == "biases" and count.isdecimal():
        return Plan.last_k_biases(graph, int(count))
    raise PlanError(
        f"There is no plan file {name!r}, and no plan of that name: those are {', '.join(NAMED_PLANS)}."
        f"{suggest(name, [*rules, 'biases:'])}"
    )


def is_named(name: str) -> bool:
    """Is it one of `NAMED_PLANS`, with any K?"""
    return name in NAMED_PLANS or name.startswith("biases:")


def file_plan(name: str) -> Plan | None:
    """The plan in a file of this name; None: it is the name of a plan."""
    from pockgraph.plan import Plan

    path = Path(name)
    is_file = path.suffix == ".json" or len(path.parts) > 1 or (not is_named(name) and os.path.lexists(path))
    return Plan.load(path) if is_file or path.is_file() else None
