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
    if reference:
        where = ["from pockui.project import load_task"]
        task = f"task = load_task({reference!r})"
    else:
        where, task = [], "task = pg.Task(...)  # the task this study was made with"
    options = "" if settings.precision == "f32" else f", options={{'precision': {settings.precision!r}}}"
    out = f"out/{file_name(plan.task)}"
    device = "" if settings.device == "CPU" else f"device={settings.device!r}"
    return "\n".join(
        [
            "from itertools import islice",
            "",
            "import pockgraph as pg",
            *where,
            "",
            task,
            f"plan = pg.Plan.load({file!r})",
            f"graph = pg.build(task, {optimizer_code(settings.optimizer_for(plan.optimizer))})",
            f"artifact = pg.compile(graph, plan, target={settings.target!r}, out={out!r}{options})",
            f"trainer = artifact.trainer({device})",
            f"for batch in islice(task.forever(seed=0), {settings.steps}):",
            "    print(trainer.step(batch).loss)",
            "print(trainer.evaluate(task.eval).metric)",
        ]
    )
