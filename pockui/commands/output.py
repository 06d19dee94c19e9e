"""How commands talk: results on standard output, progress and notes on standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.table import Table

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

WIDTH_OF_FILES = 140

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
Report = Callable[[int, int, str], None]


def out() -> Console:
    """Standard output as it is now (tests replace it)."""
    return Console(file=sys.stdout, highlight=False, soft_wrap=True)


def err() -> Console:
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """A line for whoever watches; not part of the result."""
    err().print(escape(text))


def print_json(figures: Any) -> None:
    print(json.dumps(_finite(figures), indent=1, allow_nan=False))


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is not known is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Columns whose name starts with `>` are aligned to the right."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in columns:
        right = name.startswith(">")
        table.add_column(name.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    width = None if sys.stdout.isatty() else WIDTH_OF_FILES
    Console(file=sys.stdout, highlight=False, width=width).print(table)


def fail(message: str, code: int = FAILED) -> NoReturn:
    """End the command with one paragraph on standard error."""
    err().print(f"[bold red]error:[/] {escape(message)}")
    raise typer.Exit(code)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars with the time left, on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]left[/]"),
        TimeLeft(),
        TextColumn("[dim]{task.fields[note]}[/]"),
    )
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        yield progress


def reporter(progress: Progress, description: str) -> Report:
    """A bar of its own, as a function of (done, total, what is being done)."""
    bar = progress.add_task(description, total=None, note="")

    def report(done: int, total: int, note: str) -> None:
        progress.update(bar, completed=done, total=total, note=escape(note))

    return report
