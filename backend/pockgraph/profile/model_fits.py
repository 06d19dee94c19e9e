"""Models of time and of process memory, fitted to a few plans that were measured.

Both are linear, with coefficients of at least 0, and fitted on relative residuals, so that a small step
counts as much as a large one.

A step's time is linear in its work (`Profile.work`): matrix products and depthwise convolutions of dX and
dW, and bytes moved by everything else. The forward pass is the same for every plan and is part of the
constant.

A process's memory is linear in `MemoryAmounts`. A dozen plans of one network do not tell the coefficients
well apart, so the fit is drawn towards those that networks share (`common_bytes_per_unit.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear, nnls

from ..errors import PlanError
from .common_bytes_per_unit import COMMON_BYTES_PER_UNIT
from .measured_plan import MeasuredPlan
from .memory_model import MemoryAmounts, MemoryModel
from .operator_cost import WORK_KINDS
from .profile import Profile
from .time_model import LEAST_TIMED_PLANS, TimeModel

# Pulls coefficients that the timed plans say nothing about to zero, and moves the others by under 1 %.
RIDGE = 1e-3
# How strongly shared coefficients draw, in relative residuals: as a plan that is off by so much would.
SHARED_RIDGE = 0.03
FIXED_RIDGE = 1e-2 * SHARED_RIDGE  # of what is the network's own
LEAST_MEMORY_PLANS = 4  # of a memory model: one more than its parts tell apart
MOST_COPIES = 2  # of what is not trained, that every process holds: as it was read, and in a kernel's order
_STATE = MemoryAmounts._fields.index("state_bytes")

Numbers = NDArray[np.floating[Any]]


def fit_models(profile: Profile, measured: Sequence[MeasuredPlan]) -> Profile:
    """The profile with models of time, and of memory where it was measured, of the target of these plans.

    Args:
        measured: at least two different plans of one target.

    Raises:
        PlanError: plans of several targets, or too few.
    """
    return profile.with_time(fit_time(profile, measured)).with_memory(fit_memory(profile, measured))


def fit_time(profile: Profile, measured: Sequence[MeasuredPlan]) -> TimeModel:
    """
    Args:
        profile: whose work the plans are described by.
        measured: at least two different plans; one per kind of work is better.

    Raises:
        PlanError: plans of several targets, or less than two.
    """
    target = _target(measured)
    work = np.array([profile.work(plan.choice) for plan in measured], dtype=float)
    measured_ms = np.array([plan.step_ms for plan in measured])
    scale = np.maximum(work.max(axis=0), 1.0)
    features = np.column_stack([np.ones(len(measured)), work / scale])
    # The forward pass does not tell plans apart: its column would compete with the constant.
    features[:, 1 + WORK_KINDS.index("forward")] = 0.0
    weighted = features / measured_ms[:, None]
    ridge = RIDGE * np.eye(features.shape[1]) / measured_ms.mean()
    ridge[0, 0] = 0.0
    equations = np.vstack([weighted, ridge])
    solution, _ = nnls(equations, np.concatenate([np.ones(len(measured)), np.zeros(len(ridge))]))
    predicted = features @ solution
    error = float(np.median(np.abs(predicted - measured_ms) / measured_ms))
    per_unit = tuple(float(c) for c in solution[1:] / scale)
    return TimeModel(target, float(solution[0]), per_unit, error, len(measured))


def fit_memory(
    profile: Profile,
    measured: Sequence[MeasuredPlan],
    shared: Mapping[str, Sequence[float]] = COMMON_BYTES_PER_UNIT,
) -> MemoryModel | None:
    """
    Args:
        profile: whose amounts the plans are described by.
        measured: a dozen different plans; those without memory are left out.
        shared: target -> bytes per unit that the fit leans on.

    Returns:
        None where memory was measured of fewer than `LEAST_MEMORY_PLANS` plans.

    Raises:
        PlanError: plans of several targets, or less than two.
    """
    target = _target(measured)
    known = [(plan, plan.memory) for plan in measured if plan.memory is not None]
    if len(known) < LEAST_MEMORY_PLANS:
        return None
    amounts = np.array([profile.memory_amounts(plan.choice) for plan, _ in known], dtype=float)
    peak_bytes = np.array([memory.peak_bytes for _, memory in known], dtype=float)
    runtime_bytes = float(np.mean([memory.imported_bytes for _, memory in known]))
    lean_on = shared.get(target)
    held = float(profile.resident_bytes)
    fixed, *per_unit = _memory_fit(amounts, peak_bytes, runtime_bytes, held, lean_on)
    errors = []
    for left_out in range(len(known)):
        others = np.arange(len(known)) != left_out
        fixed_of, *units = _memory_fit(amounts[others], peak_bytes[others], runtime_bytes, held, lean_on)
        predicted = runtime_bytes + fixed_of + amounts[left_out] @ units
        errors.append(abs(predicted / peak_bytes[left_out] - 1))
    error = float(np.quantile(errors, 0.9))
    # A plan that trains next to nothing has the activations of the forward pass alone.
    least = min(profile.figures(plan.choice).peak_bytes for plan, _ in known) - profile.resident_bytes
    forward = min(max(float(least), 0.0), fixed - held)
    constants = min(fixed - forward, MOST_COPIES * held)
    runtime_bytes += fixed - forward - constants  # what a small network's process has beyond its libraries
    return MemoryModel(target, runtime_bytes, constants, forward, tuple(per_unit), error, len(known))


def _memory_fit(
    amounts: Numbers, peak_bytes: Numbers, runtime_bytes: float, held: float, shared: Sequence[float] | None
) -> list[float]:
    """Fixed bytes, `held` at least, and bytes per unit of each of the amounts."""
    # Where nothing is known of a target, coefficients that the plans do not tell are 0.
    drawn_to, ridge = ([0.0] * amounts.shape[1], RIDGE) if shared is None else (shared, SHARED_RIDGE)
    found = nonnegative_fit(
        np.column_stack([np.ones(len(amounts)), amounts]), peak_bytes - runtime_bytes - held, peak_bytes,
        np.array([0.0, *drawn_to]), np.array([FIXED_RIDGE, *[ridge] * len(drawn_to)]),
    )  # fmt: skip
    return [held + float(found[0]), *map(float, found[1:])]


def nonnegative_fit(
    amounts: Numbers,
    over: Numbers,
    whole: Numbers,
    drawn_to: Numbers | None = None,
    ridge: Numbers | None = None,
) -> Numbers:
    """[K]: bytes per unit of amounts [N, K], the last of them `MemoryAmounts`, that give what is `over`.

    Args:
        over: [N] bytes; `whole`: [N] bytes that residuals are relative to.
        drawn_to: [K], what the result is drawn towards, 0 if left out; `ridge`: [K], how strongly.
    """
    scale = np.maximum(amounts.max(axis=0), 1.0)
    drawn_to = np.zeros(len(scale)) if drawn_to is None else drawn_to
    pull = np.diag(np.full(len(scale), RIDGE) if ridge is None else ridge) / np.median(whole)
    equations = np.vstack([amounts / scale / whole[:, None], pull])
    known = np.concatenate([over / whole, pull @ (drawn_to * scale)])
    least = np.zeros(len(scale))
    state = len(scale) - len(MemoryAmounts._fields) + _STATE
    least[state] = scale[state]  # state is held at least once
    return lsq_linear(equations, known, bounds=(least, np.inf)).x / scale


def _target(measured: Sequence[MeasuredPlan]) -> str:
    targets = sorted({plan.target for plan in measured})
    if len(targets) > 1:
        raise PlanError(
            f"A model is fitted to plans of one target; these were measured on {' and '.join(targets)}. Fit "
            "those of each target by themselves."
        )
    if len(measured) < LEAST_TIMED_PLANS:
        raise PlanError(
            f"A model is fitted to two measured plans at least, better to a dozen; got {len(measured)}. "
            "Measure more of them."
        )
    return targets[0]
