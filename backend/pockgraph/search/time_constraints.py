"""The time of a step as a linear expression of what a plan trains: the work of each kind, for all plans."""

from __future__ import annotations

from ..cost.masks import MASK_STEPS
from ..profile import Profile, TimeModel
from ..profile.operator_cost import SCALAR_BYTES, WORK_KINDS
from ..profile.pruning_rules import amounts, selections
from .linear_solver import Linear
from .memory_constraints import LinearMemory
from .plan_variables import PlanVariables

_FORWARD, _STREAM = WORK_KINDS.index("forward"), WORK_KINDS.index("stream")


def step_ms(profile: Profile, time: TimeModel, variables: PlanVariables, memory: LinearMemory) -> Linear:
    """The predicted time of a step."""
    total = Linear(constant=time.overhead_ms)
    for weight, amount in zip(time.ms_per_unit, _work(profile, variables, memory), strict=True):
        total.constant += weight * amount.constant
        for literal, work in amount.terms.items():
            total.add(literal, weight * work)
    return total


def _work(profile: Profile, variables: PlanVariables, memory: LinearMemory) -> list[Linear]:
    """Work of each kind."""
    total = [Linear() for _ in WORK_KINDS]
    served: dict[tuple[int, int], int] = {}  # by whom no choice of channels changes
    for n, o in enumerate(profile.operators):
        i = -1 if o.forward else o.sole()
        if i < 0:
            key = o.kind, 0 if o.needed else o.serves
            served[key] = served.get(key, 0) + o.work
        for share, literal in variables.variables_of(i):
            total[o.kind].add(literal, amounts(profile, n, i, share, profile.moves[i])[2])
        if o.masks >= 0:
            y = profile.operators[o.masks]
            elements = y.bytes // y.item_bytes
            memory.add_masks(o.masks, len(MASK_STEPS[o.clamps]) * elements, total[_FORWARD])
    for (kind, serves), work in served.items():
        total[kind].add(variables.any_trained(serves) if serves else None, work)
    for i, tensor in enumerate(profile.tensors):
        for share, literal in variables.variables_of(i):
            if share < 1:
                total[_FORWARD].add(literal, tensor.nbytes // SCALAR_BYTES)  # joined with what is frozen
    for made_of, nbytes, i in selections(profile):
        forward = made_of < 0 or profile.operators[made_of].forward
        item_bytes = SCALAR_BYTES if made_of < 0 else profile.operators[made_of].item_bytes
        for share, literal in variables.variables_of(i):
            if share < 1:
                size = round(nbytes * share)
                total[_FORWARD if forward else _STREAM].add(literal, size // item_bytes if forward else size)
    return total
