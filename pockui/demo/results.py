"""What a comparison found, as plain values: `report.json` is exactly this."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pockgraph.contribution.forecast import in_interval
from pockgraph.errors import PockError, reason, violations
from pockgraph.files import read_text, write_atomically
from pockgraph.plan.plan import MAX_BYTES

from ..info.process_memory import PARTS

SCHEMA = "pockui.report/1"
REFERENCE = ("full", "eager")  # what every ratio is to
RUNTIMES = {
    "openvino": "OpenVINO",
    "eager": "PyTorch eager",
    "compiled": "torch.compile",
}
Runtime = Literal["openvino", "eager", "compiled"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Trial(_Strict):
    """One learning rate tried on the validation split; no metric means that training diverged."""

    lr: float
    metric: float | None


class Expected(_Strict):
    """The validation metric that one training of a plan is expected to reach, as the analysis trains.

    Attributes:
        metric: of the forecast, made of measured gains alone, before the plan was trained.
        low, high: of the interval that a training lies in with `INTERVAL_COVERAGE`.
        reached: in trainings as the analysis trains, one per seed, none of them the analysis's; None for one
            that diverged; empty if not trained.
    """

    metric: float
    low: float
    high: float
    reached: tuple[float | None, ...] = ()

    @property
    def inside(self) -> int:
        """How many trainings lie in the interval."""
        return sum(r is not None and in_interval(r, self.low, self.high) for r in self.reached)


class ProcessPeak(_Strict):
    """The peak of the process that trains a plan on OpenVINO, predicted in four parts, and measured.

    Attributes:
        runtime_bytes, constants_bytes, state_bytes, activations_bytes: predicted by a memory model that was
            fitted to the processes of all other methods.
        measured_bytes: the most that the process held while training.
    """

    runtime_bytes: int
    constants_bytes: int
    state_bytes: int
    activations_bytes: int
    measured_bytes: int

    @property
    def parts(self) -> dict[str, int]:
        """Part -> bytes, in the order in which they are named everywhere."""
        return {part: getattr(self, f"{part}_bytes") for part in PARTS}

    @property
    def predicted_bytes(self) -> int:
        return sum(self.parts.values())

    @property
    def error_ratio(self) -> float:
        """Predicted over measured, minus 1."""
        return self.predicted_bytes / self.measured_bytes - 1


class Method(_Strict):
    """One way of choosing what learns.

    Attributes:
        key, label: short and readable name.
        rule: how the plan was made, in a sentence.
        ratios: FQN -> trained share of the tensor's channels, for every tensor that learns.
        values: how many numbers learn.
        peak_bytes: modelled peak of a step, weights included.
        extra_bytes: of it, what is kept only because the network trains.
        flops: of a step.
        predicted_gain: of the metric over the head alone, for searched plans.
        expected: the plan's forecast beside what it reached; None where the network is not the study's.
        process: the account of its process's memory; None where that, or too few others, was measured.
        lr: chosen among `trials`; `lr_on_edge`: it is the smallest or largest of them.
    """

    key: str
    label: str
    rule: str
    ratios: dict[str, float]
    values: int
    peak_bytes: int
    extra_bytes: int
    flops: int
    predicted_gain: float | None = None
    expected: Expected | None = None
    process: ProcessPeak | None = None
    lr: float | None = None
    lr_on_edge: bool = False
    trials: tuple[Trial, ...] = ()


class Row(_Strict):
    """A method on a runtime.

    Attributes:
        metrics: on the test split, one per seed; None for a run that diverged; empty if not trained.
        step_ms, step_q1_ms, step_q3_ms: median and quartiles of a step.
        over_loaded_bytes: measured peak over the process with the model loaded.
        over_imported_bytes: measured peak over the process with only the libraries imported.
        whole_peak_bytes: measured peak of the process, loading included.
        load_ms: to load, or load and compile, the step.
        reason: why figures are missing; empty if none are.
    """

    method: str
    runtime: Runtime
    metrics: tuple[float | None, ...] = ()
    step_ms: float | None = None
    step_q1_ms: float | None = None
    step_q3_ms: float | None = None
    over_loaded_bytes: int | None = None
    over_imported_bytes: int | None = None
    whole_peak_bytes: int | None = None
    load_ms: float | None = None
    reason: str = ""

    @property
    def mean(self) -> float | None:
        """Of the metric; None when a run diverged or none was made."""
        known = [m for m in self.metrics if m is not None]
        return statistics.fmean(known) if known and len(known) == len(self.metrics) else None

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two."""
        known = [m for m in self.metrics if m is not None]
        return statistics.stdev(known) if len(known) > 1 and self.mean is not None else None


class Answer(_Strict):
    """A held-out sample: its label, and what was predicted with which probability."""

    right: str
    given: str
    probability: float


class Answers(_Strict):
    """What an artefact predicts with what it learnt.

    Attributes:
        samples: all that are held out for the test; right: how many are predicted right.
        first: of them, a few.
    """

    samples: int
    right: int
    first: tuple[Answer, ...]


def write_text(path: Path, text: str) -> None:
    """Write a file of figures, whole or not at all.

    Raises:
        PockError: it cannot be written; an old file is as it was.
    """
    try:
        write_atomically(path, text.encode())
    except OSError as e:
        raise PockError(
            f"Cannot write {path}: {reason(e)}. Choose another place, or make room there."
        ) from None


class Report(_Strict):
    """A whole comparison.

    Attributes:
        task, title, metric: what was learnt, in words.
        command, created: what made it, and when (ISO 8601, UTC).
        quick: reduced settings; figures are rougher.
        machine, versions, settings: of the run.
        budget_bytes, budget_rule: of the automatic plan.
        blocks: block name -> FQNs of its tensors, in forward order; `sizes`: FQN -> numbers in it.
        seconds: stage -> how long it took.
        agreement: method -> largest relative difference between the losses of OpenVINO and of eager
            PyTorch over the first three steps, all seeds.
        answers: what the automatic plan's artefact predicts with the last seed's weights; None in reports of
            earlier releases, and where the task predicts nothing or no training ended well.
    """

    schema_: Literal["pockui.report/1"] = Field(default=SCHEMA, alias="schema")
    task: str
    title: str
    metric: str
    command: str
    created: str
    quick: bool
    machine: dict[str, Any]
    versions: dict[str, str | None]
    settings: dict[str, Any]
    budget_bytes: int
    budget_rule: str
    blocks: dict[str, tuple[str, ...]]
    sizes: dict[str, int]
    seconds: dict[str, float]
    agreement: dict[str, float] = {}
    methods: tuple[Method, ...]
    rows: tuple[Row, ...]
    answers: Answers | None = None

    def method(self, key: str) -> Method:
        return next(m for m in self.methods if m.key == key)

    def row(self, method: str, runtime: str) -> Row | None:
        return next((r for r in self.rows if (r.method, r.runtime) == (method, runtime)), None)

    @property
    def reference(self) -> Row | None:
        """Full fine-tuning in eager PyTorch."""
        return self.row(*REFERENCE)

    def speedup(self, row: Row) -> float | None:
        """How many times faster than the reference; below 1 it is slower."""
        return _ratio(self.reference and self.reference.step_ms, row.step_ms)

    def memory_ratio(self, row: Row, field: str = "over_loaded_bytes") -> float | None:
        """Measured peak as a share of the reference's."""
        return _ratio(getattr(row, field), self.reference and getattr(self.reference, field))

    def save(self, path: Path) -> None:
        write_text(path, self.model_dump_json(by_alias=True, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Report:
        """Read a report file.

        Raises:
            PockError: unreadable, or not a report.
        """
        try:
            return cls.model_validate_json(read_text(path, MAX_BYTES), strict=True)
        except (OSError, UnicodeDecodeError) as e:
            raise PockError(
                f"Cannot read the report {path}: {reason(e)}. Pass the report.json that "
                "pockui demo wrote, or its folder."
            ) from None
        except ValidationError as e:
            raise PockError(f"{path} is not a valid report: {violations(e, 'file')}.") from None


def _ratio(value: float | None, reference: float | None) -> float | None:
    if value is None or not reference or not math.isfinite(value / reference):
        return None
    return value / reference
