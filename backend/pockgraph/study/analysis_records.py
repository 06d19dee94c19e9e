"""What a study says of its last analysis beside the gains: scores, what was measured, and how both agree."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..contribution import Contribution, Measurement
from ..contribution.agreement import Agreement, agreements
from ..contribution.coverage import Coverage, coverage_of
from ..contribution.scores import Scores
from ..errors import StudyError
from ..store.store import Store

T = TypeVar("T")
PROBE = "Run the analysis again: Study.analyze(mode='probe')."


class AnalysisRecords(ABC):
    """What `Study` says of an analysis.

    Attributes:
        path: the file; facts: what it says of its task.
    """

    path: Path
    facts: Mapping[str, Any]
    _store: Store

    @property
    @abstractmethod
    def contribution(self) -> Contribution: ...

    @abstractmethod
    def measurements(self) -> list[Measurement]: ...

    @abstractmethod
    def _cached(self, name: str, load: Callable[[], T], key: str = "") -> T: ...

    @property
    def scores(self) -> Scores:
        """What gradients said of each candidate, of the analysis that was used last.

        Raises:
            StudyError: it was not probed.
        """
        found = self._scores()
        if found is None:
            raise StudyError(
                f"The study {self.path} has no scores: its last analysis measured all it was asked for "
                "without probing. Run Study.analyze(mode='probe') with the task, or `pockui analyze --mode "
                "probe`."
            )
        return found

    def _scores(self) -> Scores | None:
        return self._cached("measurements", self._read_scores, key="scores")

    def _read_scores(self) -> Scores | None:
        if not self._store.has_table("probes"):
            return None
        rows = self._store.read(
            "SELECT p.json FROM analyses a LEFT JOIN probes p ON p.analysis = a.id "
            "ORDER BY a.used DESC LIMIT 1"
        )
        if not rows or rows[0]["json"] is None:
            return None
        with self._store.decoding("the probe of the last analysis", PROBE):
            return Scores.from_json(rows[0]["json"])

    @property
    def coverage(self) -> Coverage:
        """What the last analysis measured and what it did not, and why; empty where there was none."""
        rows = self._store.read("SELECT * FROM analyses ORDER BY used DESC LIMIT 1")
        if not rows:
            return Coverage()
        row = dict(rows[0])
        with self._store.decoding(f"analysis {row['id']}"):
            head = set(json.loads(row["head"]))
            ended = json.loads(row.get("ended") or "{}")
            model = self.facts["model"]
            weights = [fqn for fqn, shape in model.items() if len(shape) > 1 and fqn not in head]
            return coverage_of(weights, self.measurements(), self._scores(), ended)

    def agreements(self) -> tuple[Agreement, ...]:
        """How the ranks of scores agree with those of measured gains, one for each kind of score.

        Empty where the last analysis has too little of either.
        """
        scores = self._scores()
        try:
            return agreements(scores, self.contribution) if scores is not None else ()
        except StudyError:  # nothing was measured
            return ()
