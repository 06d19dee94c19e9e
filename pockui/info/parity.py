"""A manifest's parity record as people read it: does the compiled step compute what PyTorch does?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pockgraph.errors import listing

ALLOWED = {
    "loss": "of the loss",
    "gradient": "of gradients",
    "update": "of the update",
    "step": "of a step",
    "metric": "of the metric",
}


class Badge(NamedTuple):
    """A verdict in a few words, what it rests on, and how good it is."""

    text: str
    detail: str
    level: Literal["good", "unknown", "bad"]


def parity_badge(record: Mapping[str, Any] | str | None) -> Badge:
    """The verdict on an artefact.

    Args:
        record: `manifest.parity` as JSON: figures, `"skipped"`, or None.
    """
    if not isinstance(record, Mapping):
        why = (
            "the comparison was switched off when this was compiled"
            if record == "skipped"
            else "this was compiled by a version that did not compare"
        )
        return Badge("Not compared with PyTorch", f"No parity record: {why}.", "unknown")
    allowed = record["tolerance"]
    figures = [
        f"loss off by {_share(record['loss_deviation'])}",
        f"gradients by {_share(record['gradient_deviation'])}{_worst(record['worst_gradient'])}",
        *([f"the update by {_share(record['update_deviation'])}"] if "update" in allowed else []),
        f"one step by {_share(record['step_deviation'])}{_worst(record['worst_step'])}",
        *([f"the metric by {_share(record['metric_deviation'])}"] if "metric" in allowed else []),
    ]
    limits = [f"{allowed[kind]:.0e} {of}" for kind, of in ALLOWED.items() if kind in allowed]
    detail = (
        f"On one training batch, relative to their size: {'; '.join(figures)}. More than {listing(limits)} "
        "would count as a deviation."
    )
    if "metric" not in allowed:
        detail += " The metric was not compared: this was compiled by a version that did not."
    if record.get("referee", "float32") != "float32":
        detail += f" Compared in {record['referee']}."
    if record.get("rounding") is not None:
        detail += (
            f" Rounding alone changes PyTorch's own gradients by up to {_share(record['rounding'])} here."
        )
    if (cost := record.get("frozen_weights")) is not None:
        detail += (
            f" {cost['tensors']} frozen matrices are rounded to int8, and PyTorch computed with the rounded "
            f"ones. Against the float32 ones that moves the loss by {_share(cost['loss_deviation'])}, and "
            f"gradients by {_share(cost['gradient_deviation'])} together, one by "
            f"{_share(cost['worst_gradient_deviation'])}{_worst(cost['worst_gradient'])}."
        )
    if record["forced"]:
        return Badge("Deviates from PyTorch, written by force", detail, "bad")
    return Badge("Agrees with PyTorch", detail, "good")


def _share(value: float | None) -> str:
    return "no finite number" if value is None else f"{value:.1e}"


def _worst(name: str) -> str:
    return f" (most: {name})" if name else ""
