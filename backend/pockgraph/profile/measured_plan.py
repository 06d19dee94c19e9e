"""MeasuredPlan: what one plan's step really took on a target, time and memory from one process.

Time and memory models are fitted to a few of them. They come from `pockgraph.measure`, on this machine or
on a device.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import Annotated

from pydantic import Field, field_validator

from ..errors import PlanError
from ..plan import Trained
from ..runtime.process_memory import Memory
from ..strict_model import Strict

Ratio = Annotated[float, Field(gt=0, le=1)]


class MeasuredPlan(Strict):
    """One plan, measured.

    Attributes:
        target: that its artefact was compiled for, such as `"openvino"`.
        choice: FQN -> trained ratio, or explicit channels; what is left out is frozen.
        step_ms: median time of a step.
        memory: of the process that trained; None where the system does not say.
    """

    refusal = PlanError

    target: str = Field(min_length=1)
    choice: dict[str, Ratio | Trained]
    step_ms: float = Field(gt=0, allow_inf_nan=False)
    memory: Memory | None = None

    @field_validator("memory")
    @classmethod
    def _held(cls, memory: Memory | None) -> Memory | None:
        if memory is not None and min(astuple(memory)) <= 0:
            raise ValueError("a process holds more than 0 bytes")
        return memory
