"""What the manifest says of a graph: what it takes and gives, and what may be in a batch.

Imports no torch: `SlotSpec` is `ir.graph.Slot` as a device sees it.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from ..errors import ArtifactError
from ..ir.slot_names import Role, SlotNames
from ..plan import BatchSpec
from ..strict_model import Strict
from .batch_limits import Limit, require_entries

MAX_ELEMENTS = 1 << 40


class ManifestPart(Strict):
    """Something that a manifest holds."""

    refusal = ArtifactError


class SlotSpec(SlotNames, ManifestPart):
    """One input or output of a graph; the fields are those of `ir.graph.Slot`."""

    role: str
    fqn: str
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    dtype: str = Field(pattern="^(bool|u?int(8|16|32|64)|float(16|32|64)|bfloat16)$")
    key: str = ""
    trained: bool = False
    changes: bool = False
    dim: int | None = None
    indices: tuple[int, ...] | None = None

    @field_validator("shape")
    @classmethod
    def _bounded(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if math.prod(shape) > MAX_ELEMENTS:
            raise ValueError(f"{list(shape)} is larger than any tensor")
        return shape


class GraphSpec(ManifestPart):
    """The calling convention of one graph."""

    inputs: tuple[SlotSpec, ...]
    outputs: tuple[SlotSpec, ...]

    @property
    def batch(self) -> tuple[SlotSpec, ...]:
        return tuple(s for s in self.inputs if s.role == Role.BATCH)

    @property
    def state(self) -> tuple[SlotSpec, ...]:
        return tuple(s for s in self.inputs if s.is_state)


class PredictionSpec(ManifestPart):
    """What the task predicts of batches of one size.

    Attributes:
        samples: of a batch. None: the outputs have no row for each sample, and batches are taken as they are.
        graph: its slots; the outputs are named like the task's own, a single tensor has no name.
        limits, guards, integers: as those of an evaluation, see `Manifest`.
        nonfinite_entries: as the manifest's, of the example that it was compiled with.
        samples_apart: whether each sample's row depends on that sample alone, so that batches of other sizes
            can be padded and split.
    """

    samples: int | None = Field(ge=1)
    graph: GraphSpec
    limits: tuple[Limit, ...] = ()
    guards: tuple[str, ...] = ()
    integers: tuple[str, ...] = ()
    nonfinite_entries: tuple[str, ...] = ()
    samples_apart: bool = True

    @property
    def stem(self) -> str:
        """How its files are called."""
        return "predict" if self.samples is None else f"predict-{self.samples}"

    @cached_property
    def batch(self) -> dict[str, BatchSpec]:
        """What a batch holds."""
        return {s.fqn: BatchSpec(shape=s.shape, dtype=s.dtype) for s in self.graph.batch}

    @field_validator("limits")
    @classmethod
    def _of_entries(cls, limits: tuple[Limit, ...], info: ValidationInfo) -> tuple[Limit, ...]:
        graph = info.data.get("graph")
        require_entries(limits, {s.fqn: s.shape for s in graph.batch} if graph else {})
        return limits
