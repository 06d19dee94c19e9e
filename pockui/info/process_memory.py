"""The memory of a process that trains, as one account of four parts: the same words wherever it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from . import format as fmt

if TYPE_CHECKING:
    from pockgraph import Plan
    from pockgraph.profile import MemoryModel, ProcessMemory

    from .predictions import Prediction

PARTS = ("runtime", "constants", "state", "activations")  # of `pockgraph.profile.ProcessMemory`


def account(parts: Mapping[str, float]) -> str:
    """Part -> bytes, as a sum."""
    return " + ".join(f"{part} {fmt.size(nbytes)}" for part, nbytes in parts.items())


def account_of(plan: Plan) -> str | None:
    """That of a plan's predicted process peak; None where no process was measured."""
    parts = {part: plan.predicted.get(f"process_{part}_bytes") for part in PARTS}
    known = {part: nbytes for part, nbytes in parts.items() if nbytes is not None}
    return account(known) if len(known) == len(PARTS) else None


def process_peak(plan: Plan) -> str | None:
    """A plan's predicted process peak with its account, in a sentence; None where no process was measured."""
    parts = account_of(plan)
    if parts is None:
        return None
    target = plan.provenance.get("process_target")
    on = f" on {target}" if target else ""
    return f"Process peak, predicted{on}: {fmt.size(plan.predicted.get('process_bytes'))} = {parts}."


class Stack(NamedTuple):
    """The predicted memory of one plan's process, as a bar of four parts.

    Attributes:
        percents: part -> width, of the room that all stacks share.
        line: of the table: the plan's name, each part, and all together.
    """

    percents: Mapping[str, float]
    line: Sequence[str]


class Stacks(NamedTuple):
    """Those of several plans, to scale.

    Attributes:
        columns: of the table. limit_percent: where a budget ends; None without one.
        note: whose memory it is, and how far the prediction is off.
    """

    stacks: Sequence[Stack]
    columns: Sequence[str]
    limit_percent: float | None
    note: str


COMPARED = ("Preset", "Full")  # well-known plans that stand beside the current one


def stacks(
    now: Prediction,
    known: Mapping[str, Prediction],
    model: MemoryModel,
    runtime: str,
    limit_bytes: float | None,
) -> Stacks:
    """The current plan's process beside those of well-known plans.

    Args:
        model: that predicts them. runtime: what it is of, for people.
        limit_bytes: of the budget for process memory.
    """
    plans = {"This plan": now} | {name: known[name] for name in COMPARED if name in known}
    memories = {name: p.memory for name, p in plans.items() if p.memory is not None}
    most = max((m.peak_bytes for m in memories.values()), default=0)
    limit = None if limit_bytes is None or limit_bytes > most else 100 * limit_bytes / most
    error = fmt.percent(model.error_ratio)
    return Stacks(
        [_stack(name, memory, most) for name, memory in memories.items()],
        ("Plan", *(part.capitalize() for part in PARTS), "In all"),
        limit,
        f"Predicted for {runtime}; off by less than {error} for 9 of 10 measured plans.",
    )


def _stack(name: str, memory: ProcessMemory, most: int) -> Stack:
    parts = memory.parts()
    percents = {part: 100 * nbytes / max(most, 1) for part, nbytes in parts.items()}
    return Stack(percents, (name, *map(fmt.size, parts.values()), fmt.size(memory.peak_bytes)))
