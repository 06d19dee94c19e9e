"""How far a study is that is being made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import format as fmt
from .training import Progress


def making_progress(events: Sequence[Mapping[str, Any]]) -> Progress:
    """The newest stage or measurement."""
    for event in reversed(events):
        if event["kind"] == "measured":
            left = "" if event["left_s"] is None else f", {fmt.duration(event['left_s'])} left"
            text = f"Measured {event['done']} of {event['total']}{left}: {event['text']}"
            return Progress(text, event["done"] / event["total"] if event["total"] else None)
        if event["kind"] == "stage":
            return Progress(f"{event['text']} …", None)
    return Progress("Starting …", None)


def made_text(status: str, events: Sequence[Mapping[str, Any]]) -> str:
    """How it ended, where it was not done."""
    if status != "cancelled":
        return ""
    last = next((e for e in reversed(events) if e["kind"] in ("stopped", "measured")), None)
    if last is None or not last["done"]:
        return "Cancelled before anything was measured."
    return f"Cancelled after {last['done']} of {last['total']} measurements, which are kept."
