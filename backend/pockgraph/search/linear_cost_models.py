"""The time of a step, and the memory of its process, as linear expressions of what a plan trains."""

from __future__ import annotations

from ..profile import MemoryModel, Profile, TimeModel
from .linear_solver import Linear
from .memory_constraints import LinearMemory
from .plan_amounts import PlanAmounts
from .plan_variables import PlanVariables


def step_ms(time: TimeModel, amounts: PlanAmounts) -> Linear:
    """The predicted time of a step."""
    total = Linear(constant=time.overhead_ms)
    for weight, amount in zip(time.ms_per_unit, amounts.work, strict=True):
        total.add_all(amount, weight)
    return total


def process_bytes(
    profile: Profile,
    model: MemoryModel,
    variables: PlanVariables,
    memory: LinearMemory,
    amounts: PlanAmounts,
) -> Linear:
    """The predicted peak of a process."""
    total = Linear(constant=model.runtime_bytes + model.constant_bytes + model.forward_bytes)
    operator, backward, state, allocated = model.bytes_per_unit
    total.add_all(amounts.operators, operator)
    for serves, nbytes in profile.backward_weights.items():
        total.add(variables.any_trained(serves), backward * nbytes)
    total.add_all(memory.state_bytes() + memory.resident_bytes(), state)
    for i in variables.variables_by_share:
        for share, literal in variables.variables_of(i):
            if share == 1:
                total.add(literal, state * profile.tensors[i].nbytes)
    total.add_all(amounts.allocated_bytes, allocated)
    return total
