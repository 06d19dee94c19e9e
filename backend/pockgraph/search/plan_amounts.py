"""What a step does, as linear expressions of what a plan trains: work of each kind, operators, bytes made."""

from __future__ import annotations

from typing import NamedTuple

from ..cost.clamp_masks import CLAMP_MASK_STEPS
from ..profile import Profile
from ..profile.operator_cost import SCALAR_BYTES, WORK_KINDS
from ..profile.pruning_rules import amounts, selections
from .linear_solver import Linear
from .memory_constraints import LinearMemory
from .plan_variables import PlanVariables

_FORWARD, _STREAM = WORK_KINDS.index("forward"), WORK_KINDS.index("stream")


class PlanAmounts(NamedTuple):
    """
    Attributes:
        work: of each of `WORK_KINDS`.
        operators: in the step.
        allocated_bytes: by operators after the forward pass.
    """

    work: list[Linear]
    operators: Linear
    allocated_bytes: Linear


def plan_amounts(profile: Profile, variables: PlanVariables, memory: LinearMemory) -> PlanAmounts:
    """Those of all plans."""
    total = PlanAmounts([Linear() for _ in WORK_KINDS], Linear(), Linear())

    def add(literal: int | None, kind: int, work: float, count: float, nbytes: float) -> None:
        total.work[kind].add(literal, work)
        total.operators.add(literal, count)
        total.allocated_bytes.add(literal, nbytes)

    served: dict[tuple[int, int], tuple[int, int, int]] = {}  # by whom no choice of channels changes
    for n, o in enumerate(profile.operators):
        i = -1 if o.forward else o.only_served()
        if i < 0:
            key = o.kind, 0 if o.needed else o.serves
            work, count, nbytes = served.get(key, (0, 0, 0))
            served[key] = work + o.work, count + 1, nbytes + (0 if o.forward else o.bytes)
        for share, literal in variables.variables_of(i):
            nbytes, _, work = amounts(profile, n, i, share, profile.moves[i])
            add(literal, o.kind, work, 1, nbytes)
        if o.compared >= 0:
            y, steps = profile.operators[o.compared], len(CLAMP_MASK_STEPS[o.bounds])
            mask = Linear()
            memory.add_clamp_masks(o.compared, 1, mask)
            add(None, _FORWARD, mask.constant * steps * (y.bytes // y.item_bytes), mask.constant * steps, 0)
            for literal, one in mask.terms.items():
                add(literal, _FORWARD, one * steps * (y.bytes // y.item_bytes), one * steps, 0)
    for (kind, serves), (work, count, nbytes) in served.items():
        add(variables.any_trained(serves) if serves else None, kind, work, count, nbytes)
    for i, tensor in enumerate(profile.tensors):
        for share, literal in variables.variables_of(i):
            if share < 1:
                add(literal, _FORWARD, tensor.nbytes // SCALAR_BYTES, 1, 0)  # joined with what is frozen
    for made_of, nbytes, i in selections(profile):
        forward = made_of < 0 or profile.operators[made_of].forward
        item_bytes = SCALAR_BYTES if made_of < 0 else profile.operators[made_of].item_bytes
        for share, literal in variables.variables_of(i):
            if share < 1:
                size = round(nbytes * share)
                if forward:
                    add(literal, _FORWARD, size // item_bytes, 1, 0)
                else:
                    add(literal, _STREAM, size, 1, size)
    return total
