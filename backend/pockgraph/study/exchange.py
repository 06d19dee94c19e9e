"""A study as a file for other programs, and back: JSON holds all of it.

What was exported is imported as a new study, or into one of the same task: what that lacks is added, what it
has stays as it is. Everything is checked before the first change, and written in one transaction. Runs and
measurements as tables are in `tables.py`. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..contribution.gains import Kind, Purpose, Status
from ..contribution.scores import Scores
from ..errors import PockError, StudyError, listing, reason, require, suggest, violations
from ..files import as_path, parse_json, read_text, write_atomically
from ..measure.device_profile import DeviceProfile
from ..plan import Plan
from ..profile import Profile
from ..store.lease import Owner
from ..store.store import Store, advance
from . import tables
from .kept_devices import checked_device
from .records import RUN_COLUMNS, Run, TaskFacts, differences, identified, run_json, run_of_json, run_values
from .study import Study

SCHEMA = "pockui.study/1"
MAX_BYTES = 1 << 30
FORMATS = (".json", ".csv", ".parquet")
# What makes a task the same; the other facts say when and by what a study was made.
IDENTITY = ("name", "fingerprint", "optimizer", "batch", "model")
KEY = ("purpose", "kind", "fqn", "ratio", "k", "seed", "tried_lr")
RESULT = ("status", "lr", "steps", "target", "metric", "loss", "duration_s", "finished", "error")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class MeasurementRow(_Strict):
    """A measurement as its table has it, see `Measurement`."""

    purpose: Purpose
    kind: Kind
    fqn: str
    ratio: float
    k: int
    seed: int
    tried_lr: float
    status: Status
    lr: float | None
    steps: int
    target: str
    metric: float | None
    loss: float | None
    duration_s: float | None
    finished: float | None
    error: str


class Probe(_Strict):
    """Scores as their table has them, see `Scores`."""

    finished: float
    scores: dict[str, Any]

    @field_validator("scores")
    @classmethod
    def _are_scores(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            Scores.from_json(json.dumps(value))
        except (LookupError, TypeError) as e:
            raise ValueError(f"these are no scores ({e!r})") from None
        return value


class Analysis(_Strict):
    """Measurements that can be compared with each other.

    Attributes:
        settings: which those share. lr: None while it is being chosen. used: larger is later.
        ended: how its last call ended. probe: its scores, and when they were computed.
    """

    settings: dict[str, Any]
    lr: float | None
    target: str | None
    estimates: dict[str, Any] = {}
    head: list[str]
    bias_order: list[str]
    used: int = 0
    ended: dict[str, Any] = {}
    probe: Probe | None = None
    measurements: list[MeasurementRow]


class _KeptPlan(_Strict):
    name: str
    created: float
    plan: dict[str, Any]


class _Parity(_Strict):
    target: str
    plan: str
    passed: bool
    errors: dict[str, float]
    created: float


class _File(_Strict):
    schema_: Literal["pockui.study/1"] = Field(alias="schema")
    facts: dict[str, Any]
    documents: dict[str, Any]
    analyses: list[Analysis]
    plans: list[_KeptPlan]
    runs: list[dict[str, Any]]
    parities: list[_Parity]
    devices: list[dict[str, Any]] = []
    used_device: str | None = None


@dataclass(frozen=True)
class Content:
    """What a file brings, checked.

    Attributes:
        facts: of the task; from a table only those that it has.
    """

    facts: Mapping[str, Any]
    analyses: Sequence[Analysis] = ()
    runs: Sequence[Run] = ()
    plans: Mapping[str, tuple[float, Plan]] | None = None
    parities: Sequence[_Parity] = ()
    documents: Mapping[str, Any] | None = None
    devices: Sequence[DeviceProfile] = ()
    used_device: str | None = None


@dataclass(frozen=True)
class Imported:
    """What an import added to a study.

    Attributes:
        made: the study is new.
        known: runs and finished measurements that the study had already.
        other_plans: plans that the study has under the same name with another content; its own stay.
    """

    made: bool
    runs: int
    measurements: int
    plans: int
    known: int
    other_plans: tuple[str, ...]


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
    target, kind = _format_of(path)
    if table not in ("runs", "measurements"):
        raise StudyError(f"There is no table {table!r}; there are runs and measurements.")
    if kind == ".json":
        data = json.dumps(finite(_everything(study)), allow_nan=False, indent=1).encode() + b"\n"
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
        "runs": [run_json(run) for run in study.runs()],
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


def finite(value: Any) -> Any:
    """JSON has no NaN: those numbers become the texts `"NaN"`, `"Infinity"` and `"-Infinity"`."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value


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
    source, kind = _format_of(file)
    target = as_path(path, StudyError)
    content = _read_json(source) if kind == ".json" else _read_table(source, kind)
    if kind == ".json" and not os.path.lexists(target):
        added: list[Imported] = []
        Store.create(target, content.facts, lambda write: added.append(_add(write, content, True))).close()
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
        with _checked(source):
            for run in content.runs:
                run.plan.check_fits(model)
        for row in study._store.read("SELECT settings, holder FROM analyses WHERE holder IS NOT NULL"):
            if Owner.of(row["holder"]).is_alive() is not False:
                raise StudyError(
                    f"{study.path} is being analysed by {Owner.of(row['holder'])}. Wait for it, or end it, "
                    "and import then."
                )
        with study._store.transaction() as write:
            return _add(write, content, False)


def _other_task(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """How the tasks differ, model and batch entry by entry."""
    plain = {k: v for k, v in mine.items() if not isinstance(v, Mapping)}
    wrong = differences("its ", plain, {k: theirs[k] for k in plain})
    for key in mine:
        if key not in plain:
            wrong += differences(
                {"model": "", "batch": "batch entry "}.get(key, f"{key}'s "), mine[key], theirs[key]
            )
    return wrong


def _add(write: sqlite3.Connection, content: Content, made: bool) -> Imported:
    """Insert what is not there yet."""
    runs = measurements = plans = known = 0
    other: list[str] = []
    for analysis in content.analyses:
        new, old = _add_analysis(write, analysis, made)
        measurements, known = measurements + new, known + old
    names, places = ", ".join(RUN_COLUMNS), ", ".join("?" * len(RUN_COLUMNS))
    for run in content.runs:
        values = dict(zip(RUN_COLUMNS, run_values(run))) | {"holder": None}
        cursor = write.execute(
            f"INSERT INTO runs ({names}) VALUES ({places}) ON CONFLICT (uid) DO NOTHING",
            tuple(values.values()),
        )
        runs, known = runs + cursor.rowcount, known + 1 - cursor.rowcount
    for name, (created, plan) in (content.plans or {}).items():
        row = write.execute("SELECT json FROM plans WHERE name = ?", (name,)).fetchone()
        if row is None:
            write.execute(
                "INSERT INTO plans (name, json, created) VALUES (?, ?, ?)", (name, plan.to_json(), created)
            )
            plans += 1
        elif row[0] != plan.to_json():
            other.append(name)
    for p in content.parities:
        values = (p.target, p.plan, int(p.passed), p.created, json.dumps(p.errors))
        write.execute(
            "INSERT INTO parities (target, plan, passed, created, json) SELECT ?, ?, ?, ?, ? "
            "WHERE NOT EXISTS (SELECT 1 FROM parities "
            "WHERE (target, plan, passed, created, json) = (?, ?, ?, ?, ?))",
            values * 2,
        )
    for device in content.devices:
        used = made and device.name == content.used_device
        values = (device.name, device.target, device.changed, device.to_json(), int(used))
        write.execute(
            "INSERT INTO devices (name, target, measured, json, used) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            values,
        )
    for name, document in (content.documents or {}).items():
        write.execute(
            "INSERT INTO documents VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (name, json.dumps(document), time.time()),
        )
    for touched in ("measurements", "plans", "runs", "parities", "devices", "profile"):
        advance(write, touched)
    return Imported(made, runs, measurements, plans, known, tuple(other))


def _add_analysis(write: sqlite3.Connection, given: Analysis, made: bool) -> tuple[int, int]:
    """(measurements that were added, finished ones that were there)."""
    settings = json.dumps(given.settings, sort_keys=True)
    head, order = json.dumps(given.head), json.dumps(given.bias_order)
    row = write.execute(
        "SELECT id, lr, head, bias_order FROM analyses WHERE settings = ?", (settings,)
    ).fetchone()
    if row is None:
        cursor = write.execute(
            "INSERT INTO analyses (settings, lr, target, estimates, head, bias_order, used, ended) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            # What a study last used stays what it last used.
            (
                settings,
                given.lr,
                given.target,
                json.dumps(given.estimates),
                head,
                order,
                given.used if made else 0,
                json.dumps(given.ended),
            ),
        )
        id = cursor.lastrowid
    else:
        id, lr, its_head, its_order = row
        if (None not in (lr, given.lr) and lr != given.lr) or (its_head, its_order) != (head, order):
            raise StudyError(
                f"The study has an analysis of the same settings ({settings}) that was measured in another "
                f"way (rate {lr} there, {given.lr} in the file, or another head): the two cannot be joined. "
                "Nothing was imported; import it into a study of its own."
            )
        write.execute("UPDATE analyses SET lr = coalesce(lr, ?) WHERE id = ?", (given.lr, id))
    if given.probe is not None:
        write.execute(
            "INSERT INTO probes VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (id, given.probe.finished, json.dumps(given.probe.scores)),
        )
    columns = (*KEY, *RESULT)
    added = finished = 0
    for m in given.measurements:
        values = m.model_dump()
        cursor = write.execute(
            f"INSERT INTO measurements (analysis, {', '.join(columns)}) "
            f"VALUES ({', '.join('?' * (1 + len(columns)))}) ON CONFLICT DO UPDATE SET "
            + ", ".join(f"{c} = excluded.{c}" for c in RESULT)
            + " WHERE measurements.status IN ('planned', 'failed')",
            (id, *(values[c] for c in columns)),
        )
        added, finished = added + cursor.rowcount, finished + 1 - cursor.rowcount
    return added, finished


# ---------------------------------------------------------------- reading files


def _read_json(path: Path) -> Content:
    try:
        data = parse_json(read_text(path, MAX_BYTES))
    except (OSError, ValueError) as e:
        raise StudyError(f"Cannot read {path}: {reason(e)}. Export it again.") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        raise StudyError(
            f"{path} is no exported study: its schema is {found!r}, and this version reads {SCHEMA!r}. Write "
            "one with: pockui study export"
        )
    with _checked(path):
        file = _File.model_validate(data)
        facts = TaskFacts.model_validate(file.facts)
        model = {fqn: tuple(shape) for fqn, shape in facts.model.items()}
        plans = {}
        for kept in file.plans:
            plan = Plan.from_json(json.dumps(kept.plan), f"the plan {kept.name!r}")
            plan.check_fits(model)
            plans[kept.name] = (kept.created, plan)
        if "profile" in file.documents:
            Profile.from_json(json.dumps(file.documents["profile"]))
        runs = [_run(run, f"run {number}", model) for number, run in enumerate(file.runs, 1)]
        devices = [
            checked_device(DeviceProfile.from_json(json.dumps(d), f"device {n}"), file.facts)
            for n, d in enumerate(file.devices, 1)
        ]
        return Content(
            file.facts, file.analyses, runs, plans, file.parities, file.documents, devices, file.used_device
        )


def _read_table(path: Path, kind: str) -> Content:
    try:
        rows = tables.read_csv(path, MAX_BYTES) if kind == ".csv" else tables.read_parquet(path, MAX_BYTES)
    except (OSError, ValueError) as e:
        raise StudyError(f"Cannot read {path}: {reason(e)}. Export it again.") from None
    if not rows:
        raise StudyError(
            f"{path} has no rows, so that it cannot be told which task it is of. Export it again."
        )
    with _checked(path):
        what, columns = tables.kind_of(rows[0])
        decoded = [tables.decoded(columns, row, f"row {number}") for number, row in enumerate(rows, 1)]
        facts = tables.facts_of(decoded)
        if what == "runs":
            return Content(
                facts, runs=[_run(tables.run_of_row(r), f"row {i}") for i, r in enumerate(decoded, 1)]
            )
        return Content(facts, [Analysis.model_validate(a) for a in tables.analyses_of_rows(decoded)])


def _run(data: Any, where: str, model: Mapping[str, tuple[int, ...]] | None = None) -> Run:
    if unknown := data.keys() - {f.name for f in dataclasses.fields(Run)}:
        raise ValueError(f"{where} has an entry {min(unknown)!r}, which there is none of")
    run = run_of_json(data, where)
    if model is not None:
        run.plan.check_fits(model)
    return identified(run)


@contextmanager
def _checked(path: Path) -> Iterator[None]:
    """Whatever a file's content breaks becomes one StudyError that names the file."""
    try:
        yield
    except (PockError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
        said = violations(e, "file") if isinstance(e, ValidationError) else reason(e)
        raise StudyError(
            f"{path} cannot be imported: {said}. Nothing was imported; export it again."
        ) from None


def _format_of(path: str | os.PathLike[str]) -> tuple[Path, str]:
    found = as_path(path, StudyError)
    kind = found.suffix.lower()
    if kind not in FORMATS:
        raise StudyError(
            f"The name {found.name!r} does not say how to write a study. It ends in {', '.join(FORMATS)}."
            f"{suggest(kind, FORMATS)}"
        )
    return found, kind
