"""What an exported study holds, inserted into a study: what that has stays as it is. Imports no torch."""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import dataclass

from ..contribution.kept_measurements import KEY
from ..errors import StudyError
from ..store.store import advance
from .exchange_file import Analysis, Content
from .records import RUN_COLUMNS, run_values

RESULT = ("status", "lr", "steps", "target", "metric", "loss", "duration_s", "finished", "error")


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


def insert(write: sqlite3.Connection, content: Content, made: bool) -> Imported:
    """Insert what is not there yet.

    Args:
        made: the study is new.

    Raises:
        StudyError: an analysis of the same settings was measured in another way.
    """
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
