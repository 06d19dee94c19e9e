"""The draggable parts: one `.js` file each, free of dependencies.

Not here: what they show (`info/`), and what an edit means (`views/`, `state.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


def source(name: str) -> str:
    """The ES module of a component: what all components share, then its own file."""
    return "\n".join((_HERE / f"{part}.js").read_text(encoding="utf-8") for part in ("drag", name))


def stylesheet() -> str:
    """The components' CSS."""
    return (_HERE / "components.css").read_text(encoding="utf-8")


def answer(component: Any, handle: Callable[[dict[str, Any]], None]) -> None:
    """Have `handle` deal with a component's edits, one after the other, and tell the browser."""

    def edited(event: Any) -> None:
        try:
            handle(event.new)
        finally:
            component.ack = event.new["seq"]

    component.param.watch(edited, "edit")
