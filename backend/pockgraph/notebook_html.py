"""Values as notebooks show them: a title, a table of ten rows at most, a sparkline. No scripts, no styles."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

ROWS = 10
WIDTH, HEIGHT = 160, 28


def summary(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    values: Sequence[float] = (),
    said: str = "",
) -> str:
    """A value as HTML.

    Args:
        rows: the most important first; what is beyond ten is counted.
        values: for a sparkline, in their own order; what is not finite is left out.
        said: what the sparkline shows.
    """
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows[:ROWS]
    )
    more = len(rows) - ROWS
    out = f"<div><b>{html.escape(title)}</b>"
    if line := sparkline(values, said):
        out += f"<div>{line} {html.escape(said)}</div>"
    if rows:
        out += f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    if more > 0:
        out += f"<div>and {more} more</div>"
    return out + "</div>"


def sparkline(values: Sequence[float], said: str) -> str:
    """A small line as SVG; empty for fewer than two values."""
    shown = [v for v in values if math.isfinite(v)]
    if len(shown) < 2:
        return ""
    low, span = min(shown), (max(shown) - min(shown)) or 1.0
    step = (WIDTH - 2) / (len(shown) - 1)
    points = " ".join(
        f"{1 + i * step:.1f},{HEIGHT - 1 - (HEIGHT - 2) * (v - low) / span:.1f}" for i, v in enumerate(shown)
    )
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{html.escape(said)}">'
        f'<polyline points="{points}" fill="none" stroke="currentColor"/></svg>'
    )


def size_text(size_bytes: float) -> str:
    """Three digits: `239 kB`, `22.5 MB`."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 999.5:
            return f"{size_bytes:#.3g}".rstrip(".") + f" {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} GB"


def figure_text(key: str, value: float) -> tuple[str, str]:
    """A figure whose unit is its name's suffix: what it is of, and the number with that unit."""
    name = key.removesuffix("_bytes").removesuffix("_ms").replace("_", " ")
    if key.endswith("_bytes"):
        return name, size_text(value)
    if key.endswith("_ms"):
        return name, f"{value:.3g} ms"
    return ("compute", f"{value / 1e9:.3g} GFLOP") if key == "flops" else (name, f"{value:.4g}")


def percent(ratio: float) -> str:
    return f"{100 * ratio:.3g} %"
