"""What is alive at one moment of a step, what would free it, and what freezing a tensor does: in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from . import format as fmt

if TYPE_CHECKING:
    from pockgraph.profile.step_memory import Freezing, Moment, StepMemory, Value

MOST_VALUES = 8
COUNTS = 0.01  # a value smaller than this share of the peak explains nothing
COLUMNS = ("Value", "Size", "Kind", "Freed by freezing")
KINDS = {"forward": "activation", "backward": "gradient", "update": "update"}
PASSES = {"forward": "forward pass", "backward": "backward pass", "update": "update"}
ADDED = {
    "join": "weight, its frozen and trained channels joined, before",
    "select": "selected channels of",
    "part": "selected channels of",
    "below": "clamp mask of",
    "above": "clamp mask of",
    "outside": "clamp mask of",
}


def moment_name(at: Moment) -> str:
    """What a step computes: `blocks.1.0 · convolution`; the node's name where no more is known."""
    what = f"{at.layer} · {at.op}" if at.layer and at.op else at.op or at.name
    if at.is_added and at.place < 0:
        return "selected channels of the batch"
    return f"{ADDED[at.name.partition('_')[0]]} {what}" if at.is_added else what


class Alive(NamedTuple):
    """One moment.

    Attributes:
        title: where it is, and how much is alive.
        sum: the parts that add up to it.
        lines: of the largest values, as `COLUMNS`.
        rest: what is left out, in a sentence; empty: nothing.
    """

    title: str
    sum: str
    lines: tuple[tuple[str, ...], ...]
    rest: str


def alive_at(memory: StepMemory, moment: int) -> Alive:
    at, nbytes = memory.moments[moment], int(memory.live_bytes[moment])
    values = memory.alive(moment)
    lines = tuple(
        (
            moment_name(memory.moments[v.made]),
            fmt.size(v.nbytes),
            KINDS[memory.moments[v.made].phase],
            freed_by(v),
        )
        for v in values[:MOST_VALUES]
    )
    more = values[MOST_VALUES:]
    parts = {
        "weights, constants and batch": memory.resident_bytes - memory.state_bytes,
        "optimizer state": memory.state_bytes,
        "values of the step": sum(v.nbytes for v in values),
    }
    where = "the peak" if nbytes == memory.peak_bytes else "this moment"
    return Alive(
        f"Alive at {where}: {fmt.size(nbytes)}",
        f"In the {PASSES[at.phase]}, while {moment_name(at)} runs: "
        + " + ".join(f"{name} {fmt.size(n)}" for name, n in parts.items() if n)
        + ".",
        lines,
        f"And {len(more)} more of {fmt.size(sum(v.nbytes for v in more))} in all." if more else "",
    )


def freed_by(value: Value) -> str:
    """The tensors that have to be frozen for a value to go."""
    if value.in_use:
        return "nothing: the forward pass needs it"
    return tensors(value.kept_for) or "nothing: it is a result"


def tensors(fqns: Sequence[str]) -> str:
    """Up to three names; of more, the first and how many others."""
    if len(fqns) > 3:
        return f"{fqns[0]} and {len(fqns) - 1} more"
    return " and ".join(filter(None, (", ".join(fqns[:-1]), *fqns[-1:])))


def hover_text(memory: StepMemory, moment: int, text: str) -> str:
    """`text`, then the largest values alive and what would free them, a line each."""
    found = [
        f"{fmt.size(v.nbytes)} {moment_name(memory.moments[v.made])} (freed by freezing {freed_by(v)})"
        if v.kept_for and not v.in_use
        else f"{fmt.size(v.nbytes)} {moment_name(memory.moments[v.made])}"
        for v in memory.alive(moment, 3)
    ]
    return "\n".join([text, *found])


def peaks(memory: StepMemory, others: Sequence[tuple[str, StepMemory]]) -> str:
    """Where the plan peaks, and other plans, in a sentence."""
    at = memory.moments[memory.peak]
    beside = "; ".join(
        f"{name} at {fmt.size(m.peak_bytes)} ({fmt.change(memory.peak_bytes, m.peak_bytes)})"
        for name, m in others
    )
    return (
        f"This plan peaks at {fmt.size(memory.peak_bytes)} in the {PASSES[at.phase]}, at {moment_name(at)}"
        f"{'; ' + beside if beside else ''}."
    )


def freezing_text(found: Freezing, name: str, is_trained: bool) -> str:
    """What freezing does to the peak, and why it is not more.

    Args:
        name: of what is frozen.
        is_trained: whether the plan trains any of it.
    """
    saved, peak = found.peak_bytes, found.trains.moments[found.trains.peak]
    if is_trained:
        head = f"Freezing {name} takes {_amount(saved)} off the peak"
    elif saved > 0:
        head = f"{name} is frozen; training it would add {fmt.size(saved)} to the peak"
    else:
        head = f"{name} is frozen, and that takes nothing off the peak"
    said = [head + _as_state(found) + "."]
    if saved <= found.state_bytes or not found.own_bytes:
        said += _why(found, peak)
    if found.extra_bytes != saved:
        what = "is" if not is_trained else "would be"
        said.append(f"Training memory {what} {_less(found.extra_bytes)}.")
    return " ".join(said)


def _amount(nbytes: int) -> str:
    return fmt.size(nbytes) if nbytes > 0 else "nothing"


def _less(nbytes: int) -> str:
    return f"{fmt.size(abs(nbytes))} {'less' if nbytes > 0 else 'more'}" if nbytes else "the same"


def _as_state(found: Freezing) -> str:
    if 0 < found.peak_bytes == found.state_bytes:
        return ", which is its optimizer state"
    if 0 < found.state_bytes < found.peak_bytes:
        return f", {fmt.size(found.state_bytes)} of it optimizer state"
    return ""


def _why(found: Freezing, peak: Moment) -> list[str]:
    """Why freezing takes no activation or gradient off the peak."""
    said = []
    if not found.own_bytes:
        said.append(
            f"The peak is in the {PASSES[peak.phase]}, at {moment_name(peak)}, where nothing is alive for it "
            "alone."
        )
    else:
        other = found.freezes.moments[found.freezes.peak]
        said.append(
            f"{fmt.size(found.own_bytes)} at the peak are alive for it alone, and yet another moment, "
            f"{moment_name(other)} in the {PASSES[other.phase]}, is as high."
        )
    counts = [v for v in found.still if v.nbytes >= COUNTS * found.trains.peak_bytes]
    if counts:
        value, others = counts[0], len(counts) - 1
        more = f", as {'is 1 other' if others == 1 else f'are {others} others'}" if others else ""
        said.append(
            f"What its gradient needs, {moment_name(found.freezes.moments[value.made])} "
            f"({fmt.size(value.nbytes)}), is kept for {tensors(value.kept_for)} as well{more}."
        )
    return said
