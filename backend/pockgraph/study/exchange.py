"""A study as a file for other programs, and back: JSON holds all of it.

What was exported is imported as a new study, or into one of the same task: what that lacks is added, what it
has stays as it is (`merging.py`). Everything is checked before the first change (`exchange_file.py`), and
written in one transaction. Runs and measurements as tables are in `tables.py`. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..contribution.kept_measurements import KEY
from ..errors import StudyError, listing, reason, require
from ..files import as_path, write_atomically
from ..store.lease import Owner
from ..store.store import Store
from . import tables
from .exchange_file import SCHEMA, Analysis, checked, format_of, read_json, read_table
from .merging import RESULT, Imported, insert
from .records import Run, mapping_differences, nonfinite_as_text, run_json
from .study import Study

# What makes a task the same; the other facts say when and by what a study was made.
IDENTITY = ("name", "fingerprint", "optimizer", "batch", "model")


# ---------------------------------------------------------------- out


def export_study(
    study: Study, path: str | os.PathLike[str], table: Literal["runs", "measurements"] = "runs"
) -> Path:
    """Write a study to a file, whole or not at all.

    Args:
        path: its ending says how: `.json` holds everything, `.csv` and `.parquet` one table.
        table: which, for `.csv` and `.parquet`.

    Raises:
        StudyError: another ending, a damaged study, or the file cannot be written.
        PockError: `.parquet` without pyarrow.
    """
    require(StudyError, "study", study, Study, "Pass an open pockgraph.Study.")
    target, kind = format_of(path)
    if target.exists() and target.samefile(study.path):
        raise StudyError(f"{target} is the study itself. Export it to another file.")
    if table not in ("runs", "measurements"):
        raise StudyError(f"There is no table {table!r}; there are runs and measurements.")
    if kind == ".json":
        data = json.dumps(nonfinite_as_text(_everything(study)), allow_nan=False, indent=1).encode() + b"\n"
    else:
        facts, analyses = study.facts, _analyses(study)
        columns = tables.RUNS if table == "runs" else tables.MEASUREMENTS
        rows = (
            [tables.row_of_run(run, facts) for run in study.runs()]
            if table == "runs"
            else [row for a in analyses for row in tables.rows_of_analysis(a.model_dump(), facts)]
        )
        data = tables.write_csv(columns, rows) if kind == ".csv" else tables.write_parquet(columns, rows)
    try:
        write_atomically(target, data)
    except (OSError, ValueError) as e:
        raise StudyError(
            f"Cannot write {target}: {reason(e)}. Choose another place, or make room there."
        ) from None
    return target


def _everything(study: Study) -> dict[str, Any]:
    documents = {}
    for row in study._store.read("SELECT name, json FROM documents ORDER BY name"):
        with study._store.decoding(f"the document {row['name']!r}"):
            documents[row["name"]] = json.loads(row["json"])
    created = {r["name"]: r["created"] for r in study._store.read("SELECT name, created FROM plans")}
    devices = [json.loads(device.to_json()) for device in study.devices().values()]
    return {
        "schema": SCHEMA,
        "facts": dict(study.facts),
        "documents": documents,
        # What is as by default is left out, so that earlier versions read it.
        "analyses": [a.model_dump(exclude_defaults=True) for a in _analyses(study)],
        "plans": [
            {"name": name, "created": created[name], "plan": json.loads(plan.to_json())}
            for name, plan in study.plans().items()
        ],
        "runs": [run_json(_without_places(run)) for run in study.runs()],
        "parities": [
            {"target": p.target, "plan": p.plan, "passed": p.passed, "errors": p.errors, "created": p.created}
            for p in study.parities()
        ],
        **({"devices": devices, "used_device": study.used_device} if devices else {}),
    }


def _analyses(study: Study) -> list[Analysis]:
    found = []
    for row in study._store.read("SELECT * FROM analyses ORDER BY id"):
        with study._store.decoding(f"analysis {row['id']}"):
            loaded = {c: json.loads(row[c]) for c in ("settings", "estimates", "head", "bias_order")}
            rows = study._store.read("SELECT * FROM measurements WHERE analysis = ? ORDER BY id", row["id"])
            measurements = [{c: m[c] for c in (*KEY, *RESULT)} for m in rows]
            plain: dict[str, Any] = {c: row[c] for c in ("lr", "target", "used")}
            if study._store.has_table("probes"):
                plain["ended"] = json.loads(row["ended"])
                for probe in study._store.read("SELECT * FROM probes WHERE analysis = ?", row["id"]):
                    plain["probe"] = {"finished": probe["finished"], "scores": json.loads(probe["json"])}
            found.append(Analysis.model_validate({**loaded, **plain, "measurements": measurements}))
    return found


# ---------------------------------------------------------------- in


def import_study(path: str | os.PathLike[str], file: str | os.PathLike[str]) -> Imported:
    """Bring what `export_study` wrote into a study.

    Args:
        path: the study. If there is none, a JSON file makes it; a table needs one.
        file: `.json`, `.csv` or `.parquet`.

    Raises:
        StudyError: the file cannot be read, or is no such export; it is of another task; the study is being
            analysed. Nothing was changed then.
        PockError: `.parquet` without pyarrow.
    """
    source, kind = format_of(file)
    target = as_path(path, StudyError)
    content = read_json(source) if kind == ".json" else read_table(source, kind)
    if kind == ".json" and not os.path.lexists(target):
        added: list[Imported] = []
        Store.create(target, content.facts, lambda write: added.append(insert(write, content, True))).close()
        return added[0]
    with Study(target) as study:
        mine = {k: study.facts[k] for k in IDENTITY if k in content.facts}
        theirs = {k: content.facts[k] for k in mine}
        if wrong := _other_task(mine, theirs):
            raise StudyError(
                f"{source} is of another task than the study {study.path}: {listing(wrong)}. Nothing was "
                "imported; import it into a study of its own task."
            )
        model = {fqn: tuple(shape) for fqn, shape in study.facts["model"].items()}
        with checked(source):
            for run in content.runs:
                run.plan.check_fits(model)
        for row in study._store.read("SELECT settings, holder FROM analyses WHERE holder IS NOT NULL"):
            if Owner.of(row["holder"]).is_alive() is not False:
                raise StudyError(
                    f"{study.path} is being analysed by {Owner.of(row['holder'])}. Wait for it, or end it, "
                    "and import then."
                )
        with study._store.transaction() as write:
            return insert(write, content, False)


def _other_task(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """How the tasks differ, model and batch entry by entry."""
    plain = {k: v for k, v in mine.items() if not isinstance(v, Mapping)}
    wrong = mapping_differences("its ", plain, {k: theirs[k] for k in plain})
    for key in mine:
        if key not in plain:
            wrong += mapping_differences(
                {"model": "", "batch": "batch entry "}.get(key, f"{key}'s "), mine[key], theirs[key]
            )
    return wrong


def _without_places(run: Run) -> Run:
    """Without the folders and files of this machine."""
    return dataclasses.replace(run, artifact="", checkpoint="")
