"""The Python that trains as the train view does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .names import file_name
from .optimizers import optimizer_code

if TYPE_CHECKING:
    from pockgraph.plan import Plan

    from .train_settings import TrainSettings


def training_code(plan: Plan, reference: str, settings: TrainSettings, file: str) -> str:
    """What the train view does, as Python.

    Args:
        reference: of the task; empty where it is not known.
        file: the plan's.
    """
    return "\n".join(
        [
            *import_lines(reference),
            *task_lines(reference),
            f"plan = pg.Plan.load({file!r})",
            *training_lines(plan, settings),
        ]
    )


def import_lines(reference: str) -> list[str]:
    load = ["from pockui.project import load_task"] if reference else []
    return ["from itertools import islice", "", "import pockgraph as pg", *load, ""]


def task_lines(reference: str) -> list[str]:
    """`task`, from a reference or, if that is empty, from whoever has it."""
    if reference:
        return [f"task = load_task({reference!r})"]
    return ["task = pg.Task(...)  # the task this study was made with"]


def training_lines(plan: Plan, settings: TrainSettings) -> list[str]:
    """Compiles and trains the `plan` of a `task`."""
    options = "" if settings.precision == "f32" else f", options={{'precision': {settings.precision!r}}}"
    out = f"out/{file_name(plan.task)}"
    device = "" if settings.device == "CPU" else f"device={settings.device!r}"
    # A plan brings its own rate, whatever optimizer the graph was built with.
    rate = "" if settings.lr is None else f", lr={settings.lr!r}"
    return [
        f"graph = pg.build(task, {optimizer_code(settings.optimizer_for(plan.optimizer))})",
        f"artifact = pg.compile(graph, plan, target={settings.target!r}, out={out!r}{options})",
        f"trainer = artifact.trainer({device})",
        f"for batch in islice(task.forever(seed=0), {settings.steps}):",
        f"    print(trainer.step(batch{rate}).loss)",
        "print(trainer.evaluate(task.eval).metric)",
    ]
