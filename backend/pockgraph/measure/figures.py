"""What a measured step needed, as values."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import PockError
from ..runtime.process_memory import Memory
from .reference import Reference


class MeasureError(PockError):
    """A step could not be measured; the message is the process's own last words."""


@dataclass(frozen=True)
class StepTime:
    """Time of a training step: median and quartiles over `steps` steps."""

    median_ms: float
    q1_ms: float
    q3_ms: float
    steps: int

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> StepTime:
        if len(times_ms) < 2:
            return cls(times_ms[0], times_ms[0], times_ms[0], len(times_ms))
        q1, median, q3 = statistics.quantiles(times_ms, n=4, method="inclusive")
        return cls(median, q1, q3, len(times_ms))


@dataclass(frozen=True)
class StepFigures:
    """What one contender needed.

    Attributes:
        time: of a step, by the clock on the wall.
        memory: None where the system does not say (anything but Linux).
        load_ms: from the imported libraries to a loaded model.
        first_step_ms: of the first step, which compiles or allocates lazily.
        net_time: of a step without waiting while other processes had the processors; None where the system
            does not say.
        reference: the state of the machine, timed between the blocks.
    """

    time: StepTime
    memory: Memory | None
    load_ms: float
    first_step_ms: float
    net_time: StepTime | None = None
    reference: Reference | None = None

    @property
    def undisturbed(self) -> StepTime:
        """What a step takes on this machine when nothing else runs, as far as the system says."""
        return self.net_time or self.time


def figures_to_json(figures: StepFigures) -> dict[str, float | int | None]:
    """Flat, keys with unit suffixes."""
    memory, reference = figures.memory, figures.reference
    return {
        "step_ms": figures.time.median_ms,
        "step_q1_ms": figures.time.q1_ms,
        "step_q3_ms": figures.time.q3_ms,
        "step_net_ms": figures.net_time and figures.net_time.median_ms,
        "steps": figures.time.steps,
        "load_ms": figures.load_ms,
        "first_step_ms": figures.first_step_ms,
        "reference_ms": reference and reference.ms,
        "step_per_reference": reference and figures.undisturbed.median_ms / reference.ms,
        "over_loaded_bytes": memory and memory.over_loaded_bytes,
        "over_imported_bytes": memory and memory.over_imported_bytes,
        "whole_peak_bytes": memory and memory.whole_peak_bytes,
    }
