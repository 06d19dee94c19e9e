"""The draggable parts: one `.js` file each, free of dependencies; `properties.py` says what each is given.

Not here: what they show (`info/`), what an edit means (`state.py`), and which of the two goes where
(`bindings.py`).
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


# Files that one component alone is made of, beside its own.
PARTS = {"chart": ("chart_drawing",), "layer_bars": ("selection",)}


def source(name: str) -> str:
    """The ES module of a component: what all components share, then its own files."""
    files = ("drag", *PARTS.get(name, ()), name)
    return "\n".join((_HERE / f"{part}.js").read_text(encoding="utf-8") for part in files)


def stylesheet() -> str:
    """The components' CSS."""
    return (_HERE / "components.css").read_text(encoding="utf-8")
