"""The plans, runs and comparisons that a study keeps, by name or number."""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from ..errors import PlanError, StudyError, require, suggest
from ..plan import Plan
from .records import ERRORS, RUN_COLUMNS, Run, TargetParity, identified, run_of, run_values
from .study_file import StudyFile

T = TypeVar("T")


class KeptRecords(StudyFile):
    """What `Study` keeps beside its measurements."""

    @property
    def kept_revision(self) -> int:
        """Grows whenever any process keeps, changes or removes a plan or a run."""
        return self._store.revision("plans") + self._store.revision("runs")

    def save_plan(self, name: str, plan: Plan) -> None:
        """Keep a plan under a name; an older one of that name is replaced.

        Raises:
            PlanError: the plan is another model's.
        """
        require(PlanError, "name", name, str, "Pass a text.")
        require(PlanError, "plan", plan, Plan, "Pass a Plan, such as what search returns.")
        plan.check_fits({fqn: tuple(shape) for fqn, shape in self.facts["model"].items()})
        with self._store.transaction("plans") as write:
            write.execute(
                "INSERT INTO plans (name, json, created) VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET json = excluded.json, created = excluded.created",
                (name, plan.to_json(), time.time()),
            )

    def plans(self) -> dict[str, Plan]:
        """Name -> plan, oldest first. One that cannot be read is left out, with a `UserWarning`."""
        return dict(self._readable("SELECT name, json FROM plans ORDER BY created, id", self._plan_of))

    def _plan_of(self, row: Any) -> tuple[str, Plan]:
        with self._store.decoding(f"the plan {row['name']!r}", "Remove it with Study.remove_plan."):
            return row["name"], Plan.from_json(row["json"], f"plan {row['name']!r}")

    def _readable(self, sql: str, decode: Callable[[Any], T]) -> list[T]:
        """What the rows hold; a damaged one is told, and hides no other."""
        found = []
        for row in self._store.read(sql):
            try:
                found.append(decode(row))
            except StudyError as e:
                warnings.warn(str(e), stacklevel=3)
        return found

    def plan(self, name: str) -> Plan:
        """A kept plan.

        Raises:
            StudyError: there is none of that name (with suggestions).
        """
        rows = self._store.read("SELECT name, json FROM plans WHERE name = ?", name)
        if not rows:
            self._refuse_plan(name)
        return self._plan_of(rows[0])[1]

    def remove_plan(self, name: str) -> None:
        """Forget a plan, even a damaged one; runs of it stay.

        Raises:
            StudyError: there is none of that name (with suggestions).
        """
        with self._store.transaction("plans") as write:
            removed = write.execute("DELETE FROM plans WHERE name = ?", (name,)).rowcount
        if not removed:
            self._refuse_plan(name)

    def _refuse_plan(self, name: str) -> NoReturn:
        known = [r[0] for r in self._store.read("SELECT name FROM plans")]
        raise StudyError(f"The study {self.path} has no plan {name!r}.{suggest(name, known)}")

    def add_run(self, run: Run) -> Run:
        """Keep a run; returns it with its id, and with machine, version and uid filled in."""
        require(StudyError, "run", run, Run, "Pass a pockgraph.study.Run.")
        run = identified(run)
        names, places = ", ".join(RUN_COLUMNS), ", ".join("?" * len(RUN_COLUMNS))
        with self._store.transaction("runs") as write:
            cursor = write.execute(f"INSERT INTO runs ({names}) VALUES ({places})", run_values(run))
        return dataclasses.replace(run, id=cursor.lastrowid)

    def update_run(self, run: Run) -> None:
        """Replace a kept run by its newer state, such as more losses.

        Raises:
            StudyError: the study has no such run.
        """
        require(StudyError, "run", run, Run, "Pass what add_run returned, with its changes.")
        values = dict(zip(RUN_COLUMNS, run_values(identified(run))))
        del values["uid"]  # it stays what it was
        assignments = ", ".join(f"{name} = ?" for name in values)
        with self._store.transaction("runs") as write:
            cursor = write.execute(f"UPDATE runs SET {assignments} WHERE id = ?", (*values.values(), run.id))
            if not cursor.rowcount:
                raise StudyError(f"The study {self.path} has no run {run.id}. Keep it first, with add_run.")

    def runs(self) -> list[Run]:
        """Every run, oldest first. One that cannot be read is left out, with a `UserWarning`."""
        return self._readable("SELECT * FROM runs ORDER BY id", self._run_of)

    def _run_of(self, row: Any) -> Run:
        with self._store.decoding(f"run {row['id']}"):
            return run_of(row)

    def add_parity(self, parity: TargetParity) -> None:
        """Keep a comparison with PyTorch."""
        require(StudyError, "parity", parity, TargetParity, "Pass a pockgraph.study.TargetParity.")
        values = (
            parity.target,
            parity.plan,
            int(parity.passed),
            parity.created,
            json.dumps(dict(parity.errors)),
        )
        with self._store.transaction("parities") as write:
            write.execute(
                "INSERT INTO parities (target, plan, passed, created, json) VALUES (?, ?, ?, ?, ?)", values
            )

    def parities(self) -> list[TargetParity]:
        """Every comparison with PyTorch, oldest first. One that cannot be read is left out, with a
        `UserWarning`."""
        return self._readable("SELECT * FROM parities ORDER BY id", self._parity_of)

    def _parity_of(self, row: Any) -> TargetParity:
        with self._store.decoding(f"parity record {row['id']}"):
            errors = ERRORS.validate_json(row["json"])
            return TargetParity(row["target"], row["plan"], bool(row["passed"]), errors, row["created"])
