"""One's own project on the command line: `module:task`, a Task or a function that returns one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pockgraph.errors import TaskError, suggest

if TYPE_CHECKING:
    from pockgraph.task import Task

DEMOS = {"vision": "pockui.demo.vision:task", "text": "pockui.demo.text:task"}
ENVIRONMENT = "POCKUI_TASK"  # names the task of a dashboard that `panel serve` starts
_NAMED: list[str] = []  # by the user, in this process
_ALLOWED: set[str] = set()  # likewise, for one study


def name_task(reference: str) -> str:
    """Let training run this reference: the user named it. Returns it in full.

    Raises:
        TaskError: it is not of the form `module:name`.
    """
    full = full_reference(reference)
    _NAMED.append(full)
    return full


def allow_task(reference: str) -> None:
    """Let training run this reference for studies that say it: the user had one made of it."""
    _ALLOWED.add(full_reference(reference))


def named_references() -> list[str]:
    """All that the user named, the last one last."""
    return [*_NAMED, *filter(None, [os.environ.get(ENVIRONMENT, "")])]


def named_reference(stored: str) -> str:
    """The reference that training may import for a study; empty when the user named none.

    What a study says of itself is not enough to run code. It counts when the user gave the same reference,
    made the study's task in this process, or when it is the demo's; else what was given last counts.

    Args:
        stored: what the study says.
    """
    from pockgraph.study.study import OPENED_WITH

    given = named_references()
    if stored and stored in {*given, *_ALLOWED, *OPENED_WITH, *DEMOS.values()}:
        return stored
    return full_reference(given[-1]) if given else ""


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


def full_reference(reference: str) -> str:
    """`vision` and `text` as `module:task`; that as it is.

    Raises:
        TaskError: it is not of the form `module:name`.
    """
    reference = DEMOS.get(reference, reference)
    module, _, name = reference.partition(":")
    if not (name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        file = Path(module)
        if file.suffix == ".py":
            raise TaskError(
                f"{reference!r} names a file. Run the command in the folder that holds {file.name}, and "
                f"write {file.stem}:{name or 'task'}."
            )
        raise TaskError(
            f"{reference!r} names no task. Write module:task, as in my_project:task, or one of the demo's: "
            f"{', '.join(DEMOS)}.{suggest(reference, DEMOS)}"
        )
    return reference
