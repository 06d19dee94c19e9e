"""The measurements of one analysis, in the study's file: what is wanted, what was found. Imports no torch.

Everything that was asked for is written down before it is measured, so that the study tells how much is left,
and each result in a transaction of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..errors import StudyError
from ..store.lease import Lease
from ..store.store import Store
from .gains import Candidate, Measurement
from .schedule import Request
from .scores import Scores

# What a measurement is of; in the study, its row is found by nothing else.
KEY = ("purpose", "kind", "fqn", "ratio", "k", "seed", "tried_lr")


class KeptMeasurements:
    """
    Attributes:
        known: everything that this call asked for so far, in order.
    """

    def __init__(self, store: Store, lease: Lease) -> None:
        self._store, self._lease = store, lease
        self._id = lease.analysis
        self.known: dict[Request, Measurement] = {}

    def note_end(self, note: Mapping[str, Any]) -> None:
        """How this call ended, for `coverage.py`."""
        self._set("measurements", ended=json.dumps(note))

    # ------------------------------------------------------------------ scores

    def scores(self, candidates: Iterable[Candidate]) -> Scores | None:
        """Those that the study keeps; None where it has none of one of these candidates."""
        for row in self._store.read("SELECT json FROM probes WHERE analysis = ?", self._id):
            with self._store.decoding(f"the probe of analysis {self._id}"):
                found = Scores.from_json(row["json"])
            if all(found.of(c) for c in candidates):
                return found
        return None

    def keep_scores(self, scores: Scores) -> None:
        with self._lease.transaction("measurements") as write:
            write.execute(
                "INSERT INTO probes VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET "
                "finished = excluded.finished, json = excluded.json",
                (self._id, time.time(), scores.to_json()),
            )

    # ------------------------------------------------------------------ rate and target

    @property
    def lr(self) -> float | None:
        """Of all measurements; None while it is being chosen."""
        return self._lease.row()["lr"]

    def keep_lr(self, lr: float) -> None:
        with self._lease.transaction("measurements") as write:
            write.execute("UPDATE analyses SET lr = ? WHERE id = ? AND lr IS NULL", (lr, self._id))

    @property
    def target(self) -> str | None:
        """Where measurements are taken; None while it is not chosen."""
        return self._lease.row()["target"]

    def keep_target(self, target: str) -> None:
        self._set("", target=target)

    def keep_estimates(self, estimates: Mapping[str, Any]) -> None:
        """Of the time that measurements take, by target."""
        self._set("", estimates=json.dumps(estimates))

    def _set(self, touch: str, **values: Any) -> None:
        columns = ", ".join(f"{c} = ?" for c in values)
        with self._lease.transaction(touch) as write:
            write.execute(f"UPDATE analyses SET {columns} WHERE id = ?", (*values.values(), self._id))

    # ------------------------------------------------------------------ measurements

    def recall(self) -> None:
        """Everything that the analysis has measured, whoever asked for it, is known from now on."""
        for m in self._read("status IN ('done', 'diverged')"):
            tried = (m.lr or 0.0) if m.purpose == "tuning" else 0.0
            self.known[Request(m.purpose, m.candidate, m.seed, tried)] = m

    def want(
        self, requests: Iterable[Request], steps: Callable[[Request], int], forget_unfinished: bool = False
    ) -> None:
        """Write down what is wanted.

        Args:
            steps: how many a measurement trains.
            forget_unfinished: drop what an earlier call planned, or failed at, and may not be wanted again.
        """
        new = [r for r in requests if r not in self.known]
        if not new and not forget_unfinished:
            return
        names = ", ".join(KEY)
        with self._lease.transaction("measurements") as write:
            if forget_unfinished:
                write.execute(
                    "DELETE FROM measurements WHERE analysis = ? AND status IN ('planned', 'failed')",
                    (self._id,),
                )
            write.executemany(
                f"INSERT INTO measurements (analysis, steps, {names}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT DO NOTHING",
                [(self._id, steps(r), *_key(r)) for r in new],
            )
        rows = self._store.read("SELECT * FROM measurements WHERE analysis = ?", self._id)
        found = {tuple(row[n] for n in KEY): row for row in rows}
        self.known |= {r: Measurement.of_row(found[_key(r)]) for r in new if _key(r) in found}

    def save(self, request: Request, values: Mapping[str, Any]) -> Measurement:
        """Write down what was measured.

        Raises:
            StudyError: somebody else deleted the measurement, or filled it in.
        """
        columns = ", ".join(f"{c} = ?" for c in values)
        where = " AND ".join(f"{c} = ?" for c in KEY)
        with self._lease.transaction("measurements") as write:
            found = write.execute(
                f"UPDATE measurements SET {columns} WHERE analysis = ? AND {where} AND status = 'planned' "
                "RETURNING *",
                (*values.values(), self._id, *_key(request)),
            ).fetchall()
            if len(found) != 1:
                raise StudyError(
                    f"The measurement of {request.candidate.label} with seed {request.seed} was deleted from "
                    f"{self._store.path}, or filled in, while it was being taken. The others are kept; call "
                    "analyze again to go on."
                )
        saved = self.known[request] = Measurement.of_row(found[0])
        return saved

    def failed(self) -> list[Measurement]:
        """Contributions that could not be measured."""
        return self._read("status = 'failed' AND purpose = 'contribution'")

    def of(self, purpose: str, candidate: Candidate | None = None) -> Iterator[Measurement]:
        """Those known of one purpose, and of one candidate where it is given."""
        for r, m in self.known.items():
            if r.purpose == purpose and candidate in (None, r.candidate):
                yield m

    def counts(self) -> tuple[int, int]:
        """(finished, known in all)."""
        return sum(m.status in ("done", "diverged") for m in self.known.values()), len(self.known)

    def _read(self, where: str) -> list[Measurement]:
        rows = self._store.read(f"SELECT * FROM measurements WHERE analysis = ? AND {where}", self._id)
        return [Measurement.of_row(r) for r in rows]


def _key(request: Request) -> tuple[Any, ...]:
    c = request.candidate
    return request.purpose, c.kind, c.fqn, c.ratio, c.k, request.seed, request.tried_lr
