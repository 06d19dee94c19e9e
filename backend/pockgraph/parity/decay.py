"""Does a compiled step decay its weights as the optimizer says?

A decoupled weight decay moves a weight by so much less than the gradient does that one which is a percent off
hides in what rounding does to a gradient. So one step of the artefact begins with optimizer states that are
huge: they divide the gradient away (AdamW, Adafactor) or decide its sign (Lion), whatever the batch is. What
moves the weights is then known to the last bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..optimizer import Adafactor, AdamW, Lion, Optimizer
from ..train_graph import TrainGraph
from .rounding import deviation, state_width
from .split_step import GradientRun, SplitStep
from .tolerances import DECAY

DECAYED = 0.3  # share of a weight that the step takes off
LARGEST = 1e30  # of a state
MOST_ELEMENTS = 8192  # of a tensor that are compared
LONGEST = 10.0  # times the largest element of any gradient: where kinks may carry another one
# Times that largest element, or its square. Adafactor multiplies two of its states.
SQUARES = {AdamW: 1e16, Adafactor: 1e12}
MOMENTUM = 1e8
SQUARE_KEYS = ("exp_avg_sq", "variance", "row_var", "col_var")


@dataclass(frozen=True)
class WorstDecay:
    """The weight that a step leaves farthest from where decaying takes it.

    Attributes:
        slot: its name; deviation: relative to how far it moves.
    """

    slot: str
    deviation: float

    @property
    def ships(self) -> bool:
        return self.deviation <= DECAY

    def __str__(self) -> str:
        size = f"off by {self.deviation:.2g}" if math.isfinite(self.deviation) else "not finite"
        return f"{self.slot} after a step of weight decay is {size} of its movement (tolerance {DECAY:.0e})"


@dataclass(frozen=True)
class DecayStep:
    """A step in which weights decay and the gradient hardly counts.

    Attributes:
        lr: learning rate.
        start: input slot name -> value to begin with, of each optimizer state.
        largest: element of any gradient.
    """

    lr: float
    start: dict[str, Tensor]
    largest: float

    def worst(
        self, graph: TrainGraph, split: SplitStep, plain: GradientRun, after: Mapping[str, Tensor]
    ) -> WorstDecay:
        """Compare what the artefact's step left with where the graph's update takes the weights.

        Args:
            plain: the graph's own run.
            after: state slot name -> value.
        """
        part = (lambda value: value) if isinstance(graph.optimizer, Adafactor) else _part
        slots = [s for s in graph.state_slots if s.trained]
        start = {s.name: part(self.start.get(s.name, graph.values[s.name])) for s in graph.state_slots}
        shapes = {name: part(g).shape for name, g in plain.update_inputs.items()}
        size = LONGEST * self.largest
        right, moved = (
            split.update(
                {n: torch.full(shape, end, dtype=torch.float64) for n, shape in shapes.items()},
                self.lr,
                start,
            )
            for end in (0.0, size)
        )
        # Equal elements are clipped to less than a single one may be.
        factor = 1.0
        if (limit := graph.optimizer.clip_norm) is not None:
            count = sum(shape.numel() for shape in shapes.values())
            factor = min(size, limit) / min(size, limit / math.sqrt(count))
        found = {}
        for slot in slots:
            wanted, got, before = right[slot.next_name], part(after[slot.name]), start[slot.name].double()
            of_gradient = factor * (moved[slot.next_name] - wanted).abs()
            room = state_width(wanted, before, of_gradient, 0.0, got.dtype)
            found[slot.name] = deviation(got, wanted, wanted - before, room).beyond
        worst = max(found, key=found.__getitem__)
        return WorstDecay(worst, found[worst])


def _part(value: Tensor) -> Tensor:
    """Some elements of each channel, the same ones of all tensors of a shape.

    AdamW and Lion move each element for itself; the norm that gradients are clipped to is known.
    """
    if value.ndim < 2 or value.numel() <= MOST_ELEMENTS:
        return value
    rows = value.reshape(value.shape[0], -1)
    kept = max(1, MOST_ELEMENTS // len(rows))
    return rows[:, :: -(-rows.shape[1] // kept)]


def decay_step(graph: TrainGraph, plain: GradientRun, warm: Mapping[str, Tensor]) -> DecayStep | None:
    """The step that shows a plan's weight decay; None where its optimizer has none that is decoupled.

    Args:
        plain: the graph's own run.
        warm: optimizer states in the middle of training, see `SplitStep.warm_states`; the next step is one
            that updates.
    """
    rule = type(graph.optimizer)
    most = max((_decay(graph.optimizer, fqn) for fqn in graph.plan.tensors), default=0.0)
    if not (rule is Lion or rule in SQUARES) or not most:
        return None
    largest = max((float(g.abs().max()) for g in plain.gradients.values() if g.numel()), default=0.0) or 1.0
    start = dict(warm)
    for slot in graph.state_slots:
        value = graph.values[slot.name]
        if rule is Lion and slot.key == "exp_avg":
            start[slot.name] = warm[slot.name].sign() * min(MOMENTUM * largest, LARGEST)
        elif rule in SQUARES and slot.key in SQUARE_KEYS:
            start[slot.name] = torch.full_like(value, min(SQUARES[rule] * largest**2, LARGEST))
    return DecayStep(DECAYED / most, start, largest)


def _decay(optimizer: Optimizer, fqn: str) -> float:
    """Share of a weight that a step takes off, for a learning rate of 1."""
    rule, lr_scale = optimizer.for_tensor(fqn)
    return getattr(rule, "weight_decay", 0.0) * lr_scale
