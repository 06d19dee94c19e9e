"""A study's runs and measurements as tables: CSV, and Parquet where pyarrow is installed.

Every row says of which task it is. A column is a text, a number, a whole number, a yes or no, a list of
numbers, or JSON; columns of `DERIVED` are for readers and are not read back.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import PockError, listing, suggest
from ..files import open_regular, read_text
from .records import Run, nonfinite_as_text, run_json

Kind = Literal["text", "number", "integer", "flag", "numbers", "json"]
Row = dict[str, Any]

TASK: dict[str, Kind] = {"task": "text", "fingerprint": "text", "optimizer": "json"}
RUNS: dict[str, Kind] = {
    **TASK, "uid": "text", "name": "text", "origin": "text", "status": "text", "error": "text",
    "tensors": "integer", "target": "text", "device": "text", "seed": "integer", "lr": "number",
    "schedule": "text", "fresh": "flag", "began_at": "integer", "steps": "integer", "epochs": "number",
    "baseline": "number", "metric": "number", "validation_baseline": "number", "validation_metric": "number",
    "head_metric": "number", "gain": "number", "predicted_gain": "number", "step_ms": "number",
    "measured_peak_bytes": "integer", "duration_s": "number", "created": "number", "version": "text",
    "machine": "json", "data": "json", "measured": "json", "plan": "json", "losses": "numbers",
    "validation_curve": "json",
}  # fmt: skip
MEASUREMENTS: dict[str, Kind] = {
    **TASK, "settings": "json", "analysis_lr": "number", "analysis_target": "text", "head": "json",
    "bias_order": "json", "purpose": "text", "kind": "text", "fqn": "text", "ratio": "number", "k": "integer",
    "seed": "integer", "tried_lr": "number", "status": "text", "lr": "number", "steps": "integer",
    "target": "text", "metric": "number", "gain": "number", "loss": "number", "duration_s": "number",
    "finished": "number", "error": "text",
}  # fmt: skip
DERIVED = ("tensors", "epochs", "gain")
ADDED = ("validation_curve",)  # tables of older releases lack them
ANALYSIS = ("settings", "analysis_lr", "analysis_target", "head", "bias_order")


def row_of_run(run: Run, facts: Mapping[str, Any]) -> Row:
    """A run as a row of `RUNS`."""
    derived = {"tensors": len(run.plan.tensors), "epochs": run.epochs, "gain": run.gain}
    return {**_task(facts), **run_json(run), **derived}


def rows_of_analysis(analysis: Mapping[str, Any], facts: Mapping[str, Any]) -> list[Row]:
    """An analysis as rows of `MEASUREMENTS`; `gain` is the metric over the head alone's of the same seed."""
    shared = {
        "settings": analysis["settings"], "analysis_lr": analysis["lr"],
        "analysis_target": analysis["target"] or "", "head": analysis["head"],
        "bias_order": analysis["bias_order"],
    }  # fmt: skip
    taken = [m for m in analysis["measurements"] if m["purpose"] == "contribution"]
    alone = {m["seed"]: m["metric"] for m in taken if m["kind"] == "head"}
    rows = []
    for m in analysis["measurements"]:
        head = alone.get(m["seed"]) if m["purpose"] == "contribution" else None
        gain = None if head is None or m["metric"] is None else m["metric"] - head
        rows.append({**_task(facts), **shared, **m, "gain": gain})
    return rows


def _task(facts: Mapping[str, Any]) -> Row:
    return {"task": facts["name"], "fingerprint": facts["fingerprint"], "optimizer": facts["optimizer"]}


# ---------------------------------------------------------------- back


def kind_of(row: Mapping[str, Any]) -> tuple[str, dict[str, Kind]]:
    """Which table a row is of, and its columns.

    Raises:
        ValueError: of none, with the columns that are missing from the nearest.
    """
    found = {"runs": RUNS, "measurements": MEASUREMENTS}
    missing = {
        what: [c for c in columns if c not in row and c not in ADDED] for what, columns in found.items()
    }
    what = min(missing, key=lambda w: len(missing[w]))
    lacking = [c for c in missing[what] if c not in DERIVED]
    if lacking:
        raise ValueError(
            f"it is no table of runs or measurements: it has no column {listing(lacking, 4)}."
            f"{suggest(lacking[0], list(row))}"
        )
    return what, found[what]


def decoded(columns: Mapping[str, Kind], row: Mapping[str, Any], where: str) -> Row:
    """A row's cells as values.

    Raises:
        ValueError: a cell that is none of its kind.
    """
    values = {}
    for name, kind in columns.items():
        if name in DERIVED:
            continue
        try:
            values[name] = _decode(row.get(name) if name in ADDED else row[name], kind)
        except (ValueError, TypeError, LookupError, RecursionError):
            raise ValueError(f"{where}, column {name}: {str(row[name])[:40]!r} is no {kind}") from None
    return values


def _decode(cell: Any, kind: Kind) -> Any:
    if kind == "text":
        return cell or ""
    if cell is None or cell == "":
        return None
    if not isinstance(cell, str):
        return cell
    if kind in ("json", "numbers"):
        return json.loads(cell)
    if kind == "flag":
        return {"true": True, "false": False, "1": True, "0": False}[cell.lower()]
    number = float(cell)
    return number if kind == "number" else int(cell)


def facts_of(rows: Sequence[Row]) -> dict[str, Any]:
    """What the rows say of their task.

    Raises:
        ValueError: they are of several.
    """
    first = {name: rows[0][name] for name in TASK}
    for number, row in enumerate(rows, 1):
        for name, value in first.items():
            if row[name] != value:
                raise ValueError(f"its rows are of several tasks: row {number} has another {name} than row 1")
    return {"name": first["task"], "fingerprint": first["fingerprint"], "optimizer": first["optimizer"]}


def run_of_row(row: Row) -> Row:
    """A decoded row of `RUNS` as `records.run_json` gives it."""
    data = {name: value for name, value in row.items() if name not in TASK}
    data |= {name: data[name] or {} for name in ("machine", "data", "measured")}
    data |= {name: data[name] or [] for name in ("losses", "validation_curve")}
    return data


def analyses_of_rows(rows: Iterable[Row]) -> list[Row]:
    """Decoded rows of `MEASUREMENTS`, put together again."""
    found: dict[str, Row] = {}
    for row in rows:
        analysis = found.setdefault(
            json.dumps([row[c] for c in ANALYSIS]),
            {
                "settings": row["settings"], "lr": row["analysis_lr"],
                "target": row["analysis_target"] or None, "head": row["head"],
                "bias_order": row["bias_order"], "measurements": [],
            },
        )  # fmt: skip
        skipped = (*TASK, *ANALYSIS)
        analysis["measurements"].append({k: v for k, v in row.items() if k not in skipped})
    return list(found.values())


# ---------------------------------------------------------------- files


def write_csv(columns: Mapping[str, Kind], rows: Iterable[Row]) -> bytes:
    """Comma-separated, UTF-8, a line of names first; what is not known is empty."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[name], kind) for name, kind in columns.items()])
    return text.getvalue().encode()


def _cell(value: Any, kind: Kind) -> str:
    if value is None:
        return ""
    if kind in ("json", "numbers"):
        return _json(value)
    if kind == "flag":
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def _json(value: Any) -> str:
    return json.dumps(nonfinite_as_text(value))


def read_csv(path: Path, limit_bytes: int) -> list[Row]:
    """Rows by name, all cells as text.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    text = read_text(path, limit_bytes)
    before = csv.field_size_limit(min(limit_bytes, sys.maxsize))
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows: list[Any] = list(reader)
    except csv.Error as e:
        raise ValueError(str(e)) from None
    finally:
        csv.field_size_limit(before)
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise ValueError(f"row {number} has not as many cells as there are columns")
    return rows


def write_parquet(columns: Mapping[str, Kind], rows: Sequence[Row]) -> bytes:
    """
    Raises:
        PockError: pyarrow is not installed.
    """
    pa, parquet = _pyarrow()
    kinds: dict[str, Callable[[], Any]] = {
        "text": pa.string, "json": pa.string, "number": pa.float64, "integer": pa.int64, "flag": pa.bool_,
        "numbers": lambda: pa.list_(pa.float64()),
    }  # fmt: skip
    schema = pa.schema([(name, kinds[kind]()) for name, kind in columns.items()])
    plain = [{n: _json(row[n]) if kind == "json" else row[n] for n, kind in columns.items()} for row in rows]
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(plain, schema=schema), out)
    return out.getvalue()


def read_parquet(path: Path, limit_bytes: int) -> list[Row]:
    """Rows by name.

    Raises:
        OSError, ValueError: it cannot be read.
        PockError: pyarrow is not installed.
    """
    pa, parquet = _pyarrow()
    with open_regular(path) as f:
        data = f.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise ValueError(f"it is larger than {limit_bytes} bytes")
    try:
        return parquet.read_table(io.BytesIO(data)).to_pylist()
    except (pa.ArrowException, OSError) as e:
        raise ValueError(str(e)) from None


def _pyarrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise PockError(
            "Parquet files need the package pyarrow, which is not installed here. Install it with: "
            "pip install 'pockui[parquet]', or use .csv or .json."
        ) from None
