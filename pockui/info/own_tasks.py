"""Tasks that the Python files of a folder seem to define, by looking at their text: nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

FILES_MAX = 100
FILE_BYTES = 500_000  # a longer one is generated, or data
TASK = "Task"  # the class, however it was imported


def tasks_in(folder: Path) -> list[str]:
    """`module:name` of each: functions called `task` or annotated to return one, and names that are one."""
    found = []
    for path in sorted(folder.glob("*.py"))[:FILES_MAX]:
        if not path.stem.isidentifier():
            continue
        try:
            if path.stat().st_size > FILE_BYTES:
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, SyntaxError, RecursionError):
            continue  # it cannot be imported either
        found += [f"{path.stem}:{name}" for name in _tasks_of(tree)]
    return found


def _tasks_of(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            if (node.name == "task" or _names_task(node.returns)) and not _needs_arguments(node.args):
                yield node.name
        elif isinstance(node, ast.Assign) and _names_task(getattr(node.value, "func", None)):
            yield from (t.id for t in node.targets if isinstance(t, ast.Name))


def _names_task(node: ast.expr | None) -> bool:
    """`Task`, `pg.Task` or `"Task"`."""
    if isinstance(node, ast.Constant):
        return str(node.value).rpartition(".")[2] == TASK
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name == TASK


def _needs_arguments(args: ast.arguments) -> bool:
    positional = len(args.posonlyargs) + len(args.args) - len(args.defaults)
    return positional > 0 or any(default is None for default in args.kw_defaults)
