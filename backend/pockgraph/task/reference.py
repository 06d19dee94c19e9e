"""`module:name`: a task by the name under which it can be imported, also in another process."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import TaskError, suggest
from ..foreign_exceptions import users_frame
from .task import Task


def load(reference: str, **options: Any) -> Task:
    """The Task that `module:name` stands for; its `reference` is set.

    Modules of the working directory can be imported.

    Args:
        reference: `module:name`, where `name` is a Task or a function that returns one.
        options: keyword arguments for that function.

    Raises:
        TaskError: no such module or name (with suggestions), or it is no Task and makes none.
    """
    module_name, _, name = reference.partition(":")
    found = _attribute(_module(module_name), name)
    if not isinstance(found, Task):
        if not callable(found):
            raise TaskError(
                f"{reference} is a {type(found).__name__}, not a Task. "
                "Point to a pockgraph.Task or to a function that returns one."
            )
        try:
            inspect.signature(found).bind(**options)
        except TypeError as e:
            raise TaskError(
                f"{reference} cannot be called without arguments ({e}). Give its parameters defaults."
            ) from None
        except ValueError:  # a function of C has no signature; calling it tells
            pass
        if isinstance(found, nn.Module):
            raise TaskError(
                f"{reference} is a model, not a Task. Make one of it: "
                "pockgraph.Task(name=…, model=…, loss=…, …)."
            )
        with _users_code(reference):
            made = found(**options)
        if not isinstance(made, Task):
            raise TaskError(
                f"{reference}() returned a {type(made).__name__}, not a Task. Return a pockgraph.Task."
            )
        found = made
    return replace(found, reference=reference)


def _module(name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        with _users_code(name):
            return importlib.import_module(name)
    except SyntaxError as e:
        if e.filename:
            raise
        raise TaskError(f"Python cannot read the module {name!r} ({e.msg}). Mend its file.") from e
    except ModuleNotFoundError as e:
        if e.name is None or not (name == e.name or name.startswith(f"{e.name}.")):
            raise TaskError(
                f"The module {name!r} needs the package {e.name!r}, which is not installed here. Install it."
            ) from e
        near = suggest(name, [p.stem for p in Path(here).glob("*.py")])
        raise TaskError(
            f"There is no module {e.name!r} in {here} or among the installed packages.{near} "
            "Run the command in the folder that holds your module."
        ) from None


@contextmanager
def _users_code(what: str) -> Iterator[None]:
    """A project that ends the program, as by sys.exit, ends no command as if that were done."""
    try:
        yield
    except SystemExit as e:
        frame = users_frame(e)
        where = f"{frame.filename}, line {frame.lineno}" if frame else what
        raise TaskError(
            f"{where}: the program ends here (SystemExit: {e.code}). A module with a task is imported, not "
            "run: put what runs under `if __name__ == '__main__':`."
        ) from e


def _attribute(module: Any, name: str) -> Any:
    if not hasattr(module, name):
        known = [n for n in vars(module) if not n.startswith("_")]
        raise TaskError(f"The module {module.__name__!r} has no {name!r}.{suggest(name, known)}")
    return getattr(module, name)
