"""Is a graph's update the one that `torch.optim` makes?

The update phase of a plan's graph, whole, on a corner of each tensor: three updates with gradients that are
made up, in float64, against `torch.optim` on the same numbers. A rule does to a corner what it does to the
whole, and there is no rounding that would explain a deviation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ir.graph import Slot
from ..ir.slot_names import EMA
from ..optimizer import Lion
from ..optimizer.base import MICRO_STEP
from ..train_graph import TrainGraph
from .eager_optimizer import EagerOptimizer
from .rounding import deviation
from .split_step import SplitStep
from .tolerances import UPDATE

ROUNDING = 1e-14  # of an element
SIGN_MARGIN = 1e-6  # of a gradient
CORNER = 3  # elements a dimension
# Of each update: its learning rate, exact in float32, on both sides of what Adafactor takes at most; and the
# norm of all gradients, on both sides of where they are clipped.
UPDATES = ((0.3125, 8.0), (0.8125, 0.2), (0.6875, 6.0))
SMALLEST_LOG10 = -9.0  # of a gradient's elements: below the eps that an optimizer divides by, too


@dataclass(frozen=True)
class UpdateComparison:
    """How a graph's updates compare with `torch.optim`'s.

    Attributes:
        deviation: of the state `worst` (its slot), relative to how far it moves.
        refusal: what deviates and what to do; empty where the updates agree.
    """

    deviation: float
    worst: str
    refusal: str = ""


def check_update(graph: TrainGraph, split: SplitStep, gradients: Mapping[str, Tensor]) -> UpdateComparison:
    """Compare.

    Args:
        graph: a plan's; split: the same in its two parts.
        gradients: FQN -> its gradient in one step, of what is trained. Most are replaced by others of their
            shape.
    """
    lost = [fqn for fqn in graph.plan.tensors if fqn not in split.gradient_nodes]
    found: dict[Slot, float] = {s: math.inf for s in graph.state_slots if s.trained and s.fqn in lost}
    for slot, off in () if lost else _deviations(graph, split, gradients):
        if not off <= found.get(slot, 0.0):
            found[slot] = off
    worst = max(found, key=found.__getitem__, default=None)
    if worst is None:
        return UpdateComparison(0.0, "")
    off = found[worst]
    return UpdateComparison(off, worst.name, "" if off <= UPDATE else _refusal(graph, worst, off))


def _deviations(
    graph: TrainGraph, split: SplitStep, gradients: Mapping[str, Tensor]
) -> Iterator[tuple[Slot, float]]:
    """How far the state in each slot is off, after each step."""
    count = graph.optimizer.accumulate
    micro_steps = sorted({0, 1, count - 2, count - 1} & set(range(count)))
    draws = _MadeUpValues(graph, split, gradients)
    state, next_names = draws.state, {s.name: s.next_name for s in graph.state_slots}
    slots = [s for s in graph.state_slots if s.name in state and s.fqn]
    start = dict(state)
    eager = EagerOptimizer(graph.optimizer, {s.fqn: state[s.name].clone() for s in slots if s.trained})
    for lr, size in UPDATES:
        for last, micro_step in zip((-1, *micro_steps), micro_steps):
            found = draws.gradients(size * count / len(micro_steps))
            eager.skip_to(micro_step)
            eager.zero_grad()
            if size < 1 and micro_step == count - 1 and isinstance(graph.optimizer, Lion):
                found = draws.given_or(_near_sign_change(graph.optimizer, eager))
            for fqn, leaf in eager.leaves.items():
                share = found[fqn] / count
                leaf.grad = share if leaf.grad is None else leaf.grad + share
            eager.step(lr)
            if micro_step > last + 1:
                state[f"opt_state:{MICRO_STEP}"] = torch.tensor(float(micro_step))
            after = split.update(split.named(found), lr, state)
            state |= {name: after[new] for name, new in next_names.items() if new in after}
            for slot in slots:
                right = eager.value_of(slot.fqn, slot.key)
                if right is not None:
                    yield slot, _off(state[slot.name], right, start[slot.name])


def _near_sign_change(lion: Lion, eager: EagerOptimizer) -> dict[str, Tensor]:
    """Gradients that decide the step's sign by a millionth, so that a beta which is off shows."""
    found = {}
    for fqn, leaf in eager.leaves.items():
        state = eager.torch.state[leaf]
        wanted = state["exp_avg"] * (lion.betas[0] / (lion.betas[0] - 1))
        wanted *= 1 + SIGN_MARGIN * (torch.arange(wanted.numel()) % 2 * 2 - 1).reshape(wanted.shape)
        so_far = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        found[fqn] = (wanted - so_far) * eager.micro_batches
    return found


def _off(got: Tensor, right: Tensor, before: Tensor) -> float:
    """How far a value is from the right one, relative to all that it has moved since the start."""
    rounding = ROUNDING * torch.maximum(right.abs(), before.abs())
    return deviation(got, right, right - before, rounding).beyond


class _MadeUpValues:
    """A corner of each tensor of a graph's update: states to begin with, and gradients.

    A gradient that is an input of the graph, not computed, cannot be made up: such a tensor is left whole.

    Attributes:
        state: input slot name -> value: of what is trained made up, of the optimizer's states the graph's.
    """

    def __init__(self, graph: TrainGraph, split: SplitStep, gradients: Mapping[str, Tensor]) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._nodes, self._clip_norm = split.gradient_nodes, graph.optimizer.clip_norm
        self._inputs = {node.name for node in graph.placeholders.values()}
        self._given = {fqn: gradients[fqn] for fqn, n in self._nodes.items() if n in self._inputs}
        self._shapes = {fqn: self._corner(fqn, g).shape for fqn, g in gradients.items()}
        self.state: dict[str, Tensor] = {}
        values = {
            s: self._corner(s.fqn, graph.values[s.name]).double() for s in graph.state_slots if not s.changes
        }
        moved = {}
        for slot, value in values.items():
            if slot.trained:
                drawn = torch.randn(value.shape, generator=self._generator, dtype=torch.float64)
                moved[slot.fqn] = drawn - value
        for slot, value in values.items():
            follows = slot.trained or slot.key == EMA
            self.state[slot.name] = value + moved[slot.fqn] if follows else value.clone()

    def _corner(self, fqn: str, value: Tensor) -> Tensor:
        return value if fqn in self._given else value[(slice(CORNER),) * value.ndim]

    def given_or(self, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """These gradients, but for those that are inputs."""
        return {**wanted, **{fqn: g.double() for fqn, g in self._given.items()}}

    def gradients(self, size: float) -> dict[str, Tensor]:
        """FQN -> gradient; where they are clipped, the norm of all is `size` times the limit."""
        drawn: dict[str, Tensor] = {}
        for fqn, shape in self._shapes.items():
            node = self._nodes[fqn]
            if fqn in self._given:
                drawn[node] = self._given[fqn].double()
            elif node not in drawn:  # two tensors may have one gradient
                normal = torch.randn(shape, generator=self._generator, dtype=torch.float64)
                spread = torch.rand(shape, generator=self._generator, dtype=torch.float64)
                drawn[node] = normal * 10 ** (SMALLEST_LOG10 * spread)
        if self._clip_norm is not None:
            norm = float(torch.stack([g.norm() for g in drawn.values()]).norm())
            factor = size * self._clip_norm / norm
            drawn = {n: g if n in self._inputs else g * factor for n, g in drawn.items()}
        return {fqn: drawn[node] for fqn, node in self._nodes.items()}


def _refusal(graph: TrainGraph, slot: Slot, off: float) -> str:
    name = type(graph.optimizer).__name__
    truth = "arXiv 2302.06675" if isinstance(graph.optimizer, Lion) else f"torch.optim.{name}"
    what = slot.fqn if slot.trained else f"the state {slot.key!r} of {slot.fqn}"
    size = f"off by {off:.2g} of its movement" if math.isfinite(off) else "not where it should be"
    return (
        f"The training graph of task {graph.task.name!r} does not update its weights as {truth} does, before "
        f"any target is involved: {what} is {size} after {len(UPDATES)} updates with gradients that were "
        f"made up (tolerance {UPDATE:.0e}). This is a bug of pockgraph's {name}, not of your model: please "
        "report it. Another target does not help, another optimizer may."
    )
