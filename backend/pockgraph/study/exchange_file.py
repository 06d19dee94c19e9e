"""What a file of an exported study holds, checked: JSON with everything, or a table.

Imports no torch.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..contribution.gains import Kind, Purpose, Status
from ..contribution.scores import Scores
from ..errors import PockError, StudyError, reason, suggest, violations
from ..files import as_path, parse_json, read_text
from ..measure.device_profile import DeviceProfile
from ..plan import Plan
from ..profile import Profile
from . import tables
from .kept_devices import checked_device
from .records import Run, TaskFacts, identified, run_of_json

SCHEMA = "pockui.study/1"
MAX_BYTES = 1 << 30
FORMATS = (".json", ".csv", ".parquet")


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


class PlanRow(_Strict):
    name: str
    created: float
    plan: dict[str, Any]


class ParityRow(_Strict):
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
    plans: list[PlanRow]
    runs: list[dict[str, Any]]
    parities: list[ParityRow]
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
    parities: Sequence[ParityRow] = ()
    documents: Mapping[str, Any] | None = None
    devices: Sequence[DeviceProfile] = ()
    used_device: str | None = None


# ---------------------------------------------------------------- reading


def read_json(path: Path) -> Content:
    """
    Raises:
        StudyError: it cannot be read, or is no exported study.
    """
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
    with checked(path):
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


def read_table(path: Path, kind: str) -> Content:
    """
    Args:
        kind: `.csv` or `.parquet`.

    Raises:
        StudyError: it cannot be read, or is no table of a study.
        PockError: `.parquet` without pyarrow.
    """
    try:
        rows = tables.read_csv(path, MAX_BYTES) if kind == ".csv" else tables.read_parquet(path, MAX_BYTES)
    except (OSError, ValueError) as e:
        raise StudyError(f"Cannot read {path}: {reason(e)}. Export it again.") from None
    if not rows:
        raise StudyError(
            f"{path} has no rows, so that it cannot be told which task it is of. Export it again."
        )
    with checked(path):
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
def checked(path: Path) -> Iterator[None]:
    """Whatever a file's content breaks becomes one StudyError that names the file."""
    try:
        yield
    except (PockError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
        said = violations(e, "file") if isinstance(e, ValidationError) else reason(e)
        raise StudyError(
            f"{path} cannot be imported: {said}. Nothing was imported; export it again."
        ) from None


def format_of(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """A path, and which of `FORMATS` its ending says."""
    found = as_path(path, StudyError)
    kind = found.suffix.lower()
    if kind not in FORMATS:
        raise StudyError(
            f"The name {found.name!r} does not say how to write a study. It ends in {', '.join(FORMATS)}."
            f"{suggest(kind, FORMATS)}"
        )
    return found, kind
