"""What a study keeps of runs, comparisons and the task: as values, and as rows of its tables."""

from __future__ import annotations

import dataclasses
import json
import math
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, TypeAdapter

from ..machine import machine
from ..plan import BatchSpec, Plan
from ..store.lease import Owner
from ..version import __version__, installed_version

if TYPE_CHECKING:
    from ..train_graph import TrainGraph

Origin = Literal["cli", "demo", "dashboard", "verify", "python"]


@dataclass(frozen=True)
class DataSplit:
    """Which data a part of a task is.

    Attributes:
        batches: in one pass, as far as they are used; None: nothing says where a stream ends.
        samples: in those; None where that is not known without reading them.
        fingerprint: of the values, from samples spread over all of `Batches`, else of the first batch; empty
            where two looks differ (random augmentation) or a stream would have to be read.
    """

    batches: int | None
    samples: int | None
    fingerprint: str


@dataclass(frozen=True)
class Run:
    """One training of a plan.

    Attributes:
        plan: what was trained, and by which optimizer (`plan.optimizer`); `name`: how people call the run.
        status: `"running"`, `"done"`, `"cancelled"` or `"failed"` with `error`.
        target, device, seed, lr, steps: how. `losses`: of each step, before its update.
        metric: on `task.eval` (the test data) afterwards; `baseline`: the same before the first step.
        validation_curve: (step, metric on the first validation samples), as evaluated between steps.
        step_ms: median; `measured_peak_bytes`: of the process. Predictions are the plan's.
        created: seconds since 1970; `duration_s`: of the training.
        id: given by the study.
        origin: which face trained it.
        validation_metric, validation_baseline: as `metric` and `baseline`, on the validation data.
        head_metric: validation metric of the head alone, trained in the same way (at a rate of its own
            where rates were tuned); None where not known.
        predicted_gain: what the study predicted then, over the head alone.
        schedule: how the rate moved: `"constant"`, or `"cosine"` from `lr` down to 0.
        fresh: whether the task's `fresh` tensors were drawn anew from `seed`.
        began_at: steps that had been taken before, in a run that was resumed.
        planned_steps: the step at which it was to end, those before included; None where nobody said.
        artifact, checkpoint: the folder and the trained weights that it left, as paths from the study's
            folder; empty where it left none, or another machine did.
        data: `"train"`, `"validation"` and `"test"` -> which data that was.
        measured: figures of a process that did nothing else, named as by `measure.figures_to_json`.
        machine, version: where it was trained, and by which release. `uid`: the same in every copy. The
            study fills them in.
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
    origin: Origin = "python"
    validation_metric: float | None = None
    validation_baseline: float | None = None
    head_metric: float | None = None
    predicted_gain: float | None = None
    schedule: Literal["constant", "cosine"] = "constant"
    fresh: bool = False
    began_at: int = 0
    planned_steps: int | None = None
    artifact: str = ""
    checkpoint: str = ""
    data: Mapping[str, DataSplit] = field(default_factory=dict)
    measured: Mapping[str, float | None] = field(default_factory=dict)
    machine: Mapping[str, str | int | None] = field(default_factory=dict)
    version: str = ""
    uid: str = ""
    validation_curve: tuple[tuple[int, float], ...] = ()

    @property
    def optimizer(self) -> Mapping[str, Any]:
        """`{"name": "sgd", "momentum": 0.9, …}`; the rate that was used is `lr`."""
        return self.plan.optimizer

    @property
    def epochs(self) -> float | None:
        """Passes over the training data; None for a stream."""
        train = self.data.get("train")
        return self.steps / train.batches if train and train.batches else None

    @property
    def gain(self) -> float | None:
        """Validation metric over that of the head alone; None where one of them is not known."""
        if self.validation_metric is None or self.head_metric is None:
            return None
        return self.validation_metric - self.head_metric


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
    packages = ("pockui", "torch", "openvino", "numpy")
    return {
        "name": graph.name,
        "reference": graph.reference,
        "fingerprint": graph.fingerprint,
        "optimizer": graph.optimizer.to_dict(),
        "batch": {k: v.model_dump(mode="json") for k, v in graph.plan.batch.items()},
        "model": {r.fqn: list(r.shape) for r in graph.tensors},
        "unused": sorted({*graph.unused, *graph.frozen, *(graph.aliases or {})}),
        "versions": {name: found for name in packages if (found := installed_version(name))},
        "created": time.time(),
    }


def mapping_differences(what: str, stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """How two mappings differ, a sentence's part each; `what` stands before every key."""
    both: Iterable[str] = [k for k in stored if k in given]
    return [
        *(f"no {what}{k!r}" for k in stored if k not in given),
        *(f"{what}{k!r} is new" for k in given if k not in stored),
        *(f"{what}{k!r} is {given[k]} instead of {stored[k]}" for k in both if stored[k] != given[k]),
    ]


_LOSS = np.dtype("<f8")  # of one step, in the blob of a run's row
RUN_COLUMNS = ("status", "target", "created", "json", "losses", "uid", "holder")


def identified(run: Run) -> Run:
    """A run with what tells where it was made, as far as it is not filled in."""
    return dataclasses.replace(
        run,
        uid=run.uid or uuid.uuid4().hex,
        version=run.version or __version__,
        machine=run.machine or machine(),
    )


def run_json(run: Run) -> dict[str, Any]:
    """A run as JSON values, but for its id, which is another one in another file."""
    data = dataclasses.asdict(dataclasses.replace(run, plan=None))  # pyright: ignore[reportArgumentType]
    del data["id"]
    return data | {"plan": json.loads(run.plan.to_json())}


def nonfinite_as_text(value: Any) -> Any:
    """A value as JSON, which has no NaN: it becomes the text `"NaN"`, and so `"Infinity"`, `"-Infinity"`."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(k): nonfinite_as_text(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [nonfinite_as_text(v) for v in value]
    return value


def run_of_json(data: Mapping[str, Any], where: str, **more: Any) -> Run:
    """What `run_json` gave.

    Raises:
        ValueError, PlanError, …: it is none.
    """
    plan = Plan.from_json(json.dumps(data["plan"]), f"the plan of {where}")
    return RUN.validate_python({**data, **more, "plan": plan})


def run_values(run: Run) -> tuple[Any, ...]:
    """A run as `RUN_COLUMNS` of its table."""
    data = run_json(run)
    del data["losses"], data["uid"]
    holder = json.dumps(dataclasses.asdict(Owner.here())) if run.status == "running" else None
    losses = np.array(run.losses, _LOSS).tobytes()
    return run.status, run.target, run.created, json.dumps(data), losses, run.uid, holder


def run_of(row: Mapping[str, Any]) -> Run:
    """A run from its row, of whatever schema.

    One that was being trained by a process that is gone counts as cancelled.

    Raises:
        ValueError, PlanError, …: the row is damaged.
    """
    columns = dict(row)
    data = json.loads(columns["json"])
    if columns.get("losses") is not None:
        data["losses"] = tuple(np.frombuffer(columns["losses"], _LOSS).tolist())
    uid = columns.get("uid") or f"v2-{columns['id']}-{columns['created']:.6f}"
    run = run_of_json(data, f"run {columns['id']}", id=columns["id"], uid=uid)
    holder = columns.get("holder")
    if run.status == "running" and holder and Owner.of(holder).is_alive() is False:
        return dataclasses.replace(run, status="cancelled", error="Its process ended before the run did.")
    return run
