"""One's own project on the command line: `module:task`, a Task or a function that returns one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pockgraph.errors import TaskError, suggest

if TYPE_CHECKING:
    from pockgraph.task import Task

DEMOS = {"vision": "pockui.demo.vision:task", "text": "pockui.demo.text:task"}
ENVIRONMENT = "POCKUI_TASK"  # names the task of a dashboard that `panel serve` starts
_NAMED: list[str] = []  # by the user, in this process


def name_task(reference: str) -> str:
    """Let training run this reference: the user named it. Returns it in full.

    Raises:
        TaskError: it is not of the form `module:name`.
    """
    full = _full(reference)
    _NAMED.append(full)
    return full


def named_reference(stored: str) -> str:
    """The reference that training may import for a study; empty when the user named none.

    What a study says of itself is not enough to run code. It counts when the user gave the same reference,
    made the study's task in this process, or when it is the demo's; else what was given last counts.

    Args:
        stored: what the study says.
    """
    from pockgraph.study.study import OPENED_WITH

    given = [*_NAMED, *filter(None, [os.environ.get(ENVIRONMENT, "")])]
    if stored and stored in {*given, *OPENED_WITH, *DEMOS.values()}:
        return stored
    return _full(given[-1]) if given else ""


def load_task(reference: str, **options: Any) -> Task:
    """The Task that `module:name` stands for; see `pockgraph.task.reference.load`.

    `vision` and `text` are the demo's tasks.

    Args:
        reference: `module:name`, where `name` is a Task or a function that returns one.
        options: keyword arguments for that function.

    Raises:
        TaskError: no such module or name (with suggestions), or it is no Task and makes none.
    """
    from pockgraph.task.reference import load

    return load(name_task(reference), **options)


def _full(reference: str) -> str:
    reference = DEMOS.get(reference, reference)
    module, _, name = reference.partition(":")
    if not (name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise TaskError(
            f"{reference!r} names no task. Write module:task, as in my_project:task, or one of the demo's: "
            f"{', '.join(DEMOS)}.{suggest(reference, DEMOS)}"
        )
    return reference
