"""What to do when there is no study to show."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import panel as pn

from pockgraph.errors import PockError

from . import parts

MAKE = """pockui demo vision --quick    # EfficientNet-Lite0 learns digits, in minutes
pockui serve out/demo-vision/study.db"""


def opening(name: str) -> pn.viewable.Viewable:
    """While a study is read."""
    what = f" <code>{html.escape(name[:200])}</code>" if name else ""
    return _card(parts.text(f'<p role="status">Opening{what} …</p>'))


def refused(problem: str) -> pn.viewable.Viewable:
    """Why this server shows nothing."""
    return _card(parts.text(f"<h2>Not served</h2><p>{html.escape(problem)}</p>"))


def _card(*blocks: pn.viewable.Viewable) -> pn.viewable.Viewable:
    return parts.card(*blocks, sx={"maxWidth": 720, "mx": "auto", "my": 3, "gap": 2})


def start(problem: PockError | None, found: Sequence[Path]) -> pn.viewable.Viewable:
    """Why nothing is shown, the studies that lie around, and how to make one.

    Args:
        problem: why the study that was asked for cannot be shown.
    """
    blocks = []
    if problem is not None:
        blocks.append(f"<h2>This study cannot be shown</h2><p>{html.escape(str(problem))}</p>")
    else:
        blocks.append(
            "<h2>No study yet</h2><p>A study holds what each tensor of a network gains and costs on a task. "
            "PockUI plans from it.</p>"
        )
    if found:
        links = "".join(f'<p><a href="?study={quote(str(p))}">{html.escape(str(p))}</a></p>' for p in found)
        blocks.append(f"<h2>Open one</h2>{links}")
    blocks.append(f"<h2>Make one</h2>{parts.code(MAKE)}")
    blocks.append(
        "<p>Or from your own task, <code>pockui analyze my_project:task --study my.db</code>, "
        "and then <code>pockui serve my.db</code>.</p>"
    )
    return _card(*(parts.text(b) for b in blocks))
