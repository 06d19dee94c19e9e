"""The memory of a process that trains, as one account of four parts: the same words wherever it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import format as fmt

if TYPE_CHECKING:
    from pockgraph import Plan

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
