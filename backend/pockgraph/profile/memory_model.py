"""The memory of a process that trains, as the operating system counts it, in four parts.

    runtime       the target's libraries, what they take to load a model, and records of each operator
    constants     what is not trained, with the runtime's own copies of it
    state         trained parts and optimizer state
    activations   what a step allocates

Each part grows with one thing that a profile knows of a plan, or is the same for all plans; how fast is
fitted to a few measured plans (`model_fits.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..plan import Trained
from .operator_cost import WORK_KINDS
from .pruning_rules import part_bytes

if TYPE_CHECKING:
    from .plan_cost import PrunedStep
    from .profile import Profile

_OF_INPUTS = tuple(WORK_KINDS.index(kind) for kind in ("dx_matrix", "dx_depthwise"))


@dataclass(frozen=True)
class ProcessMemory:
    """The peak of a process that trains a plan, by what holds it, in bytes."""

    runtime: int
    constants: int
    state: int
    activations: int

    @property
    def peak_bytes(self) -> int:
        """All four together."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Part -> bytes."""
        return asdict(self)


class MemoryAmounts(NamedTuple):
    """What of a plan the memory of its process grows with.

    Attributes:
        operators: in the step.
        backward_weight_bytes: of weights that gradients of inputs are computed from: runtimes keep them in
            another order than the forward pass reads.
        state_bytes: of tensors that are trained, or of their trained parts, and of optimizer state.
        allocated_bytes: of the results of operators after the forward pass. Runtimes find memory again for
            much of it; how much is the target's.
    """

    operators: float
    backward_weight_bytes: float
    state_bytes: float
    allocated_bytes: float


@dataclass(frozen=True)
class MemoryModel:
    """Bytes of a process as a linear function of `MemoryAmounts`.

    Attributes:
        target: what was measured.
        runtime_bytes: of the libraries, and of what every plan's process holds beyond the other parts.
        constant_bytes: of what is not trained, and of copies of it that every plan's process holds.
        forward_bytes: of activations of the forward pass alone.
        bytes_per_unit: bytes per unit of each of the amounts.
        error_ratio: |predicted - measured| / measured, which 9 of 10 plans stay below that were measured
            and left out of the fit.
        points: how many plans were measured.
    """

    target: str
    runtime_bytes: float
    constant_bytes: float
    forward_bytes: float
    bytes_per_unit: tuple[float, ...]
    error_ratio: float
    points: int

    def predict(self, amounts: MemoryAmounts) -> ProcessMemory:
        runtime, constants, state, activations = (
            unit * amount for unit, amount in zip(self.bytes_per_unit, amounts, strict=True)
        )
        return ProcessMemory(
            runtime=round(self.runtime_bytes + runtime),
            constants=round(self.constant_bytes + constants),
            state=round(state),
            activations=round(self.forward_bytes + activations),
        )


def memory_amounts(
    profile: Profile, choice: Mapping[str, float | Trained], step: PrunedStep
) -> MemoryAmounts:
    """Those of a plan, of which `step` is what pruning leaves."""
    trained, held = 0, step.state_bytes
    for fqn, what in choice.items():
        if not isinstance(what, Trained) and what <= 0:
            continue
        i = profile.index(fqn)
        trained |= 1 << i
        tensor, part = profile.tensors[i], profile.part(i, what)
        if part is None:
            held += tensor.nbytes
        else:
            dim, count = part
            held += part_bytes(profile, i, count / tensor.shape[dim], count)
    schedule = step.schedule
    return MemoryAmounts(
        operators=len(schedule.owns_bytes),
        backward_weight_bytes=sum(n for serves, n in profile.backward_weights.items() if serves & trained),
        state_bytes=held,
        allocated_bytes=int(schedule.owns_bytes[~schedule.forward].sum()),
    )


def backward_weights(profile: Profile) -> dict[int, int]:
    """`Profile.backward_weights`."""
    found: dict[int, int] = {}
    for o in profile.operators:
        if o.kind in _OF_INPUTS and not o.forward:
            found[o.serves] = found.get(o.serves, 0) + sum(profile.tensors[i].nbytes for i in o.reads)
    return {serves: nbytes for serves, nbytes in found.items() if nbytes}
