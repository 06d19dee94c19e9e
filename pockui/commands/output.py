"""How commands talk: results on standard output, progress and notes on standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.table import Table
from rich.text import Text

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

WIDTH_OF_FILES = 140

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


def out() -> Console:
    """Standard output as it is now (tests replace it)."""
    return _console(sys.stdout)


def err() -> Console:
    return _console(sys.stderr)


def _console(file: TextIO, **how: Any) -> Console:
    """Text is shown as it is: a module may be called `[/]` or `:x:`."""
    return Console(file=file, highlight=False, markup=False, emoji=False, **{"soft_wrap": True, **how})


def styled(*parts: str | tuple[str, str]) -> Text:
    """A line of texts, those with a style as `(text, style)`."""
    return Text.assemble(*parts)


def say(text: str) -> None:
    """A line for whoever watches; not part of the result."""
    err().print(text)


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
        table.add_row(*map(str, row))
    width = None if sys.stdout.isatty() else WIDTH_OF_FILES
    _console(sys.stdout, soft_wrap=False, width=width).print(table)


def fail(message: str, code: int = FAILED) -> NoReturn:
    """End the command with one paragraph on standard error."""
    err().print(styled(("error:", "bold red"), f" {message}"))
    raise typer.Exit(code)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars with the time left, on standard error."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left", style="dim"),
        TimeLeft(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    with Progress(*columns, console=_console(sys.stderr, soft_wrap=False)) as progress:
        yield progress


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[Any], None]]:
    """One bar, and the function that shows what the engine says of its progress (`contribution.Progress`)."""
    with progress_bars() as bars:
        bar = bars.add_task(description, total=None, note="")

        def show(event: Any) -> None:
            bars.update(bar, completed=event.done, total=event.total, note=event.label)

        yield show
