"""How far each of what is compared may be off, relative, and not be refused."""

from __future__ import annotations

from dataclasses import dataclass

# Gradients of the plan's graph, against autograd:
GRADIENT_F32 = 5e-5  # in float32; up to this, nothing more is asked
GRADIENT_F64 = 1e-6  # in float64
GRADIENT_BEYOND_ROUNDING = 1e-4  # in float32, where there is no float64

UPDATE = 1e-9  # of a channel's movement: the graph's update phase in float64, against torch.optim
UPDATE_OPERATORS = 1e-5  # of a state's movement: what a runtime's operators may make of an update
DECAY = 2e-6  # of a channel's movement, beyond what storing it rounds: weight decay of a compiled step
METRIC = 5e-5  # of a sample's value, or the usual one: what adding up in another order leaves is less


@dataclass(frozen=True)
class StepTolerances:
    """What a compiled step may do to its numbers.

    Attributes:
        eps: of the dtype of activations and gradients; None: of the graph's own.
        gradient: share of a gradient's element that any program is allowed.
        loss, step: share of the loss, and of what a state moves, beyond rounding that ships.
    """

    eps: float | None
    gradient: float
    loss: float
    step: float


# By the target's option `precision`.
STEP = {
    "f32": StepTolerances(eps=None, gradient=1e-4, loss=1e-5, step=1e-4),
    "f16": StepTolerances(eps=2.0**-11, gradient=1e-2, loss=5e-3, step=1e-1),
    "bf16": StepTolerances(eps=2.0**-8, gradient=5e-2, loss=2e-2, step=5e-1),
}
