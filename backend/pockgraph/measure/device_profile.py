"""DeviceProfile: what a few plans' steps took on a device, as a file that comes back from it.

A file holds blocks: one process that trained one plan of a kit for some steps, with the reference kernel
before and after. Each is written as soon as it was measured, so that a device that stops midway loses one.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from ..errors import PockError, reason, violations
from ..files import parse_json, read_text
from ..machine import machine
from ..profile.measured_plan import MeasuredPlan, Ratio
from ..runtime.process_memory import Memory
from ..strict_model import Strict
from .figures import StepFigures, StepTime
from .reference import Reference, Timing, reference_now

SCHEMA = "pockui.device/1"
MAX_BYTES = 64 << 20
THIS_MACHINE = "this machine"
Ms = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Choice = dict[str, Ratio]


class DeviceProfileError(PockError):
    """A device's profile or a kit of plans cannot be read, or is of something else."""


class DeviceFile(Strict):
    """Checked content of a file."""

    refusal = DeviceProfileError


class TaskIdentity(DeviceFile):
    """Whose plans were measured, as a study's facts have it."""

    name: str
    fingerprint: str
    optimizer: dict[str, Any]


class Time(DeviceFile):
    """`StepTime` in a file."""

    median_ms: Ms
    q1_ms: Ms
    q3_ms: Ms
    steps: int = Field(gt=0)


class Block(DeviceFile):
    """One process that trained one plan.

    Attributes:
        plan: its position among the file's choices.
        time: by the clock on the wall; `net_time`: without waiting for other processes, where the system
            says so; memory: of the process, likewise.
        reference: the state of the machine around it.
    """

    plan: int = Field(ge=0)
    time: Time
    net_time: Time | None = None
    memory: dict[str, int] | None = None
    load_ms: Ms
    first_step_ms: Ms
    reference: Reference

    @field_validator("memory")
    @classmethod
    def _is_memory(cls, memory: dict[str, int] | None) -> dict[str, int] | None:
        if memory is not None and (
            memory.keys() != Memory.__dataclass_fields__.keys() or min(memory.values()) <= 0
        ):
            raise ValueError(f"it has {', '.join(Memory.__dataclass_fields__)}, all above 0")
        return memory

    @classmethod
    def of(cls, plan: int, figures: StepFigures) -> Block:
        def time(taken: StepTime) -> Time:
            return Time(**asdict(taken))

        assert figures.reference is not None
        return cls(
            plan=plan, time=time(figures.time), net_time=figures.net_time and time(figures.net_time),
            memory=figures.memory and asdict(figures.memory), load_ms=figures.load_ms,
            first_step_ms=figures.first_step_ms, reference=figures.reference,
        )  # fmt: skip

    @property
    def step_ms(self) -> float:
        """Of a step when nothing else runs, as far as the system says."""
        return (self.net_time or self.time).median_ms


class DeviceProfile(DeviceFile):
    """What a few plans' steps took on one device, for one target.

    Attributes:
        name: the device's, for people. target: what the plans were compiled for.
        kit: a digest of the kit that was measured.
        machine: as `pockgraph.machine.machine` says. versions: of the programs that ran.
        threads: None: as many as the runtime takes by itself.
        started, changed: when, in seconds since 1970.
        rounds: how often each plan was to be measured.
        choices: FQN -> trained share, one for each plan of the kit.
        blocks: what was measured, in that order.
        failures: position of a plan -> why its step could not be measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: Literal["pockui.device/1"] = Field(default=SCHEMA, alias="schema")
    name: str = Field(min_length=1, max_length=100)
    target: str = Field(min_length=1)
    task: TaskIdentity
    kit: str
    machine: dict[str, str | int | None]
    versions: dict[str, str | None]
    threads: int | None = Field(default=None, gt=0)
    started: float = Field(ge=0, allow_inf_nan=False)
    changed: float = Field(ge=0, allow_inf_nan=False)
    rounds: int = Field(gt=0)
    choices: tuple[Choice, ...]
    blocks: tuple[Block, ...] = ()
    failures: dict[int, str] = Field(default={})

    @field_validator("name")
    @classmethod
    def _is_printable(cls, name: str) -> str:
        if not name.isprintable() or name != name.strip():
            raise ValueError("it is a line of printable text, without spaces around it")
        return name

    @model_validator(mode="after")
    def _known_plans(self) -> DeviceProfile:
        if any(n >= len(self.choices) for n in (*(b.plan for b in self.blocks), *self.failures)):
            raise ValueError("blocks or failures name a plan that is not among the choices")
        return self

    # ------------------------------------------------------------------ what it says

    def blocks_of(self, plan: int) -> list[Block]:
        return [b for b in self.blocks if b.plan == plan]

    @property
    def is_complete(self) -> bool:
        return all(
            n in self.failures or len(self.blocks_of(n)) >= self.rounds for n in range(len(self.choices))
        )

    def plans(self) -> list[MeasuredPlan]:
        """What each plan took: the median of its blocks' times, and the memory of the block in the middle."""
        found = []
        for n, choice in enumerate(self.choices):
            if blocks := self.blocks_of(n):
                memories = sorted((b.memory for b in blocks if b.memory), key=lambda m: m["peak_bytes"])
                found.append(
                    MeasuredPlan(
                        target=self.target, choice=dict(choice),
                        step_ms=statistics.median(b.step_ms for b in blocks),
                        memory=Memory(**memories[len(memories) // 2]) if memories else None,
                    )
                )  # fmt: skip
        return found

    def spread(self) -> float | None:
        """Median over plans of how far their blocks lie apart, as a share; None with one block each."""
        ratios = [max(ms) / min(ms) - 1 for ms in self._times() if len(ms) > 1]
        return statistics.median(ratios) if ratios else None

    def _times(self) -> Iterable[list[float]]:
        return ([b.step_ms for b in self.blocks_of(n)] for n in range(len(self.choices)))

    @property
    def reference(self) -> Reference:
        """The state that the device was in: the median of its blocks'.

        Raises:
            DeviceProfileError: nothing was measured.
        """
        if not self.blocks:
            raise DeviceProfileError(f"Nothing was measured on {self.name!r} yet. Measure the kit there.")
        return _median_of([b.reference for b in self.blocks])

    def change_while_measured(self) -> str:
        """How the device's state at the end differs from that at the start, in words; empty: in nothing."""
        third = len(self.blocks) // 3
        if not third:
            return ""
        first, last = (
            _median_of([b.reference for b in part]) for part in (self.blocks[:third], self.blocks[-third:])
        )
        return first.change_to(last)

    def change_since(self) -> str:
        """How this machine differs from the one that was measured, and from its state, in words.

        Times the reference kernel, for some tens of milliseconds.
        """
        here = machine()
        told = {"cpu": "processor", "cores": "number of cores", "memory_bytes": "memory"}
        other = [words for key, words in told.items() if self.machine.get(key) != here[key]]
        return f"another machine ({', '.join(other)})" if other else self.reference.change_to(reference_now())

    # ------------------------------------------------------------------ files

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> DeviceProfile:
        """
        Args:
            where: what the text is of, for the error.

        Raises:
            DeviceProfileError: it is no profile of a device, of another version, or damaged.
        """
        try:
            data = parse_json(text)
        except ValueError as e:
            raise DeviceProfileError(f"{where} is no profile of a device: {reason(e)}. {_REMEDY}") from None
        found = data.get("schema") if isinstance(data, Mapping) else None
        if found != SCHEMA:
            raise DeviceProfileError(
                f"{where} is no profile of a device that this version reads: its schema is {found!r}, not "
                f"{SCHEMA!r}. {_REMEDY}"
            )
        try:
            return cls.model_validate_json(text, strict=True)
        except (ValidationError, PockError) as e:
            said = violations(e, "file") if isinstance(e, ValidationError) else str(e).rstrip(".")
            raise DeviceProfileError(f"{where} is damaged: {said}. {_REMEDY}") from None

    @classmethod
    def load(cls, path: Path) -> DeviceProfile:
        """
        Raises:
            DeviceProfileError: as `from_json`, or it cannot be read.
        """
        try:
            text = read_text(path, MAX_BYTES)
        except (OSError, ValueError) as e:
            raise DeviceProfileError(f"Cannot read {path}: {reason(e)}. {_REMEDY}") from None
        return cls.from_json(text, str(path))


_REMEDY = "Measure it with: python -m pockgraph.measure --profile KIT -o device.json"


def _median_of(references: list[Reference]) -> Reference:
    def timing(timings: list[Timing]) -> Timing:
        q1, median, q3 = (
            statistics.median(t) for t in zip(*((t.q1_ms, t.median_ms, t.q3_ms) for t in timings))
        )
        return Timing(median_ms=median, q1_ms=q1, q3_ms=q3)

    return Reference(
        matmul=timing([r.matmul for r in references]), stream=timing([r.stream for r in references]),
        samples=sum(r.samples for r in references),
    )  # fmt: skip
