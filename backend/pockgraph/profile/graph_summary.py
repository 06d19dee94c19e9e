"""What a plan leaves of the training graph, layer by layer: operators, their bytes and their floating-point
operations, before and after pruning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..plan import Trained
from ..plan.tensor_info import block_of
from .operator_cost import Phase
from .plan_cost import pruned_step

if TYPE_CHECKING:
    from .profile import Profile


@dataclass
class Count:
    """Operators, the bytes that they allocate, and their floating-point operations, in the whole graph and in
    the plan's.
    """

    operators: int = 0
    bytes: int = 0
    flops: int = 0
    plan_operators: int = 0
    plan_bytes: int = 0
    plan_flops: int = 0

    def add(self, other: Count) -> None:
        self.operators += other.operators
        self.bytes += other.bytes
        self.flops += other.flops
        self.plan_operators += other.plan_operators
        self.plan_bytes += other.plan_bytes
        self.plan_flops += other.plan_flops


@dataclass
class LayerCount:
    """A layer's part of the graph.

    Attributes:
        layer: the module; empty for what stands outside all of them (the loss, counters of the optimizer).
        block: the repeated part of the network that it is in.
        counts: (phase, operator) -> count. What the plan has added (selections of channels, clamp masks,
            joined weights) is counted as the operator that it stands beside, in the plan only.
        added: phase -> how many operators the plan has added.
        trained: FQN -> trained share of its channels.
    """

    layer: str
    block: str
    counts: dict[tuple[Phase, str], Count] = field(default_factory=dict)
    added: dict[Phase, int] = field(default_factory=dict)
    trained: dict[str, float] = field(default_factory=dict)

    def of(self, phase: Phase | None = None) -> Count:
        """The sum over one phase, or over all."""
        total = Count()
        for (its, _), count in self.counts.items():
            if phase in (None, its):
                total.add(count)
        return total


def graph_summary(profile: Profile, choice: Mapping[str, float | Trained]) -> tuple[LayerCount, ...]:
    """The layers in the order of the forward pass; `choice` as for `Profile.figures`.

    A profile that `has_layers` is False of has one layer without a name, and operators without one.
    """
    layers: dict[str, LayerCount] = {}

    def count(n: int, phase: Phase) -> tuple[LayerCount, Count]:
        o = profile.operators[max(n, 0)]
        layer = layers.setdefault(o.layer, LayerCount(o.layer, block_of(o.layer)))
        return layer, layer.counts.setdefault((phase, o.op), Count())

    for n in sorted(range(len(profile.operators)), key=lambda n: not profile.operators[n].forward):
        o = profile.operators[n]
        _, found = count(n, o.phase)
        found.operators += 1
        found.bytes += o.bytes
        found.flops += o.flops
    step = pruned_step(profile, choice)
    schedule = step.schedule
    for n, owns, forward in zip(step.operators, schedule.owns_bytes.tolist(), schedule.forward.tolist()):
        if n >= 0:
            _, found = count(n, profile.operators[n].phase)
        else:
            beside, _ = step.causes[-1 - n]
            phase: Phase = "forward" if forward else "backward"
            layer, found = count(beside, phase)
            layer.added[phase] = layer.added.get(phase, 0) + 1
        found.plan_operators += 1
        found.plan_bytes += owns
        found.plan_flops += int(step.operator_flops[n]) if n >= 0 else step.added_flops[-1 - n]
    for i, tensor in enumerate(profile.tensors):
        what = choice.get(tensor.fqn, 0.0)
        if (isinstance(what, Trained) or what > 0) and tensor.layer in layers:
            part = profile.part(i, what)
            share = 1.0 if part is None else part[1] / tensor.shape[part[0]]
            layers[tensor.layer].trained[tensor.fqn] = share
    return tuple(layers.values())
