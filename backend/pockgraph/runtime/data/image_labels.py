"""The table `labels.csv` of a folder of images: columns `file` and `label`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ...errors import BatchError, reason, suggest
from ...files import open_regular
from ..artifact_files import require_inside
from ..batch_limits import Limit
from .folder import INDEX

LABELS = "labels.csv"
COLUMNS = ("file", "label")
_WHOLE = re.compile(r"-?[0-9]{1,18}")


class Row(NamedTuple):
    """An image: its path within the folder, its class, and the line of the table that says so."""

    file: str
    label: int
    line: int

    @property
    def place(self) -> str:
        return f"{LABELS}, line {self.line}"


def read_rows(
    folder: Path, labelled: bool, classes: Sequence[str], limits: Sequence[Limit] = ()
) -> list[Row]:
    """The rows of the table, in their order.

    Args:
        labelled: whether labels are needed; else there may be no such column, and it is not looked at.
        classes: names that stand instead of numbers.
        limits: of the labels.

    Raises:
        BatchError: naming the line, where a row is not what it should be.
    """
    path = folder / LABELS
    try:
        with open_regular(path) as f, io.TextIOWrapper(f, "utf-8-sig", newline="") as text:
            rows = list(_rows(folder, csv.reader(text, strict=True), labelled, classes, limits))
    except (OSError, UnicodeError, csv.Error) as e:
        raise BatchError(
            f"Cannot read {path}: {reason(e)}. It is a table with the columns {' and '.join(COLUMNS)}."
        ) from None
    if not rows:
        raise BatchError(f"{path} names no images. Give it a row for each.")
    return rows


def _rows(
    folder: Path, table: Any, labelled: bool, classes: Sequence[str], limits: Sequence[Limit]
) -> Iterator[Row]:
    columns = _columns(folder / LABELS, next(table, []), labelled)
    for cells in table:
        line = table.line_num
        if not cells:  # an empty line
            continue
        if len(cells) != len(columns):
            many = f"has {len(cells)} cells instead of {len(columns)}"
            _refuse(folder, line, f"{many}. Put names with commas in quotes.")
        row = dict(zip(columns, cells))
        _require_file(folder, line, row["file"])
        yield Row(row["file"], _label(folder, line, row["label"], classes, limits) if labelled else 0, line)


def _columns(path: Path, columns: list[str], labelled: bool) -> list[str]:
    needed = COLUMNS if labelled else COLUMNS[:1]
    missing = [c for c in needed if c not in columns]
    unknown = [c for c in columns if c not in COLUMNS]
    first_line = f"Its first line is {','.join(COLUMNS)}."
    if unknown:
        near = suggest(unknown[0], COLUMNS)
        raise BatchError(f"{path} has a column {unknown[0]!r}, which is unknown.{near} {first_line}")
    if missing:
        raise BatchError(f"{path} has no column {missing[0]!r}. {first_line}")
    if len(set(columns)) != len(columns):
        raise BatchError(f"{path} has a column twice. {first_line}")
    return columns


def _require_file(folder: Path, line: int, name: str) -> None:
    path = folder / name
    try:
        require_inside(folder, path)
        if not path.is_file():
            _refuse(folder, line, f"names {name!r}, and there is no such file in {folder}.")
    except (OSError, ValueError):
        _refuse(folder, line, f"names {name[:200]!r}, which leads out of {folder} or is no path.")


def _label(folder: Path, line: int, text: str, classes: Sequence[str], limits: Sequence[Limit]) -> int:
    if classes:
        if text not in classes:
            known = f"none of the classes in {INDEX}.{suggest(text, classes)}"
            _refuse(folder, line, f"has the label {text[:200]!r}, which is {known}")
        label = classes.index(text)
    elif _WHOLE.fullmatch(text):
        label = int(text)
    else:
        needed = f'Names need "classes" in {INDEX}'
        _refuse(folder, line, f"has the label {text[:200]!r}, which is no whole number. {needed}.")
    for limit in limits:
        if not limit.low <= label <= limit.high and label not in limit.also:
            allowed = f"{limit.why}: {limit.low} to {limit.high}"
            _refuse(folder, line, f"has the label {label}, but these are {allowed}.")
    return label


def _refuse(folder: Path, line: int, what: str) -> NoReturn:
    raise BatchError(f"{folder / LABELS}, line {line}, {what}")
