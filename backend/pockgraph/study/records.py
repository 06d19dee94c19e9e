"""What a study keeps of runs, comparisons and the task: as values, and as rows of its tables."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, TypeAdapter

from ..plan import BatchSpec, Plan

if TYPE_CHECKING:
    from ..train_graph import TrainGraph


@dataclass(frozen=True)
class Run:
    """One training of a plan.

    Attributes:
        plan: what was trained; `name`: how people call the run.
        status: `"running"`, `"done"`, `"cancelled"` or `"failed"` with `error`.
        target, device, seed, lr, steps: how. `losses`: of each step, before its update.
        metric: on `task.eval` afterwards; `baseline`: the same before the first step.
        step_ms: median; `measured_peak_bytes`: of the process. Predictions are the plan's.
        created: seconds since 1970; `duration_s`: of the training.
        id: given by the study.
    """

    plan: Plan
    name: str = ""
    status: Literal["running", "done", "cancelled", "failed"] = "done"
    target: str = "openvino"
    device: str = "CPU"
    seed: int = 0
    lr: float | None = None
    steps: int = 0
    losses: tuple[float, ...] = ()
    metric: float | None = None
    baseline: float | None = None
    step_ms: float | None = None
    measured_peak_bytes: int | None = None
    duration_s: float | None = None
    error: str = ""
    created: float = field(default_factory=time.time)
    id: int | None = None


@dataclass(frozen=True)
class TargetParity:
    """How close a target came to PyTorch, for one plan.

    Attributes:
        errors: worst differences by what was compared, such as `{"loss": 2e-7, "weights": 1e-6}`.
    """

    target: str
    plan: str
    passed: bool
    errors: Mapping[str, float]
    created: float = field(default_factory=time.time)


class TaskFacts(BaseModel):
    """What a study says of its task."""

    name: str
    reference: str
    fingerprint: str
    optimizer: dict[str, Any]
    batch: dict[str, BatchSpec]
    model: dict[str, list[int]]
    unused: list[str]


RUN, NAMES, ERRORS = TypeAdapter(Run), TypeAdapter(list[str]), TypeAdapter(dict[str, float])


def facts(graph: TrainGraph) -> dict[str, Any]:
    """What a study says about its task; enough to recognise it and to read it without torch."""
    versions = {}
    for package in ("pockui", "torch", "openvino", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "name": graph.name,
        "reference": graph.reference,
        "fingerprint": graph.fingerprint,
        "optimizer": graph.optimizer.to_dict(),
        "batch": {k: v.model_dump(mode="json") for k, v in graph.plan.batch.items()},
        "model": {r.fqn: list(r.shape) for r in graph.tensors},
        "unused": sorted({*graph.unused, *graph.frozen, *(graph.aliases or {})}),
        "versions": versions,
        "created": time.time(),
    }


def differences(what: str, stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """How two mappings differ, a sentence's part each; `what` stands before every key."""
    both: Iterable[str] = [k for k in stored if k in given]
    return [
        *(f"no {what}{k!r}" for k in stored if k not in given),
        *(f"{what}{k!r} is new" for k in given if k not in stored),
        *(f"{what}{k!r} is {given[k]} instead of {stored[k]}" for k in both if stored[k] != given[k]),
    ]


def run_values(run: Run) -> tuple[str, str, float, str]:
    """A run as the columns of its table: status, target, created, JSON."""
    data = {f.name: getattr(run, f.name) for f in dataclasses.fields(run) if f.name not in ("plan", "id")}
    data["plan"] = json.loads(run.plan.to_json())
    return run.status, run.target, run.created, json.dumps(data)
