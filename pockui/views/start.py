"""The studies there are, and making one."""

from __future__ import annotations

import html
from collections.abc import Sequence
from urllib.parse import quote

import panel as pn

from pockgraph.errors import PockError

from ..info.study_list import StudyEntry
from . import parts
from .new_study import MakeStudy

SHELL = """pockui demo vision --quick    # the vision task, compared with training all of it
pockui analyze my_project:task --study my.db"""


def opening(name: str) -> pn.viewable.Viewable:
    """While a study is read."""
    what = f" <code>{html.escape(name[:200])}</code>" if name else ""
    return _card(parts.text(f'<p role="status">Opening{what} …</p>'))


def refused(problem: str) -> pn.viewable.Viewable:
    """Why this server shows nothing."""
    return _card(parts.text(f"<h2>Not served</h2><p>{html.escape(problem)}</p>"))


def _card(*blocks: pn.viewable.Viewable | pn.viewable.Viewer) -> pn.viewable.Viewable:
    return parts.card(*blocks, sx={"maxWidth": 860, "mx": "auto", "my": 3, "gap": 2})


def start(
    problem: PockError | None, found: Sequence[StudyEntry], make: MakeStudy | None = None
) -> pn.viewable.Viewable:
    """Why nothing is shown, the studies that lie around, and how to make one.

    Args:
        problem: why the study that was asked for cannot be shown.
        make: makes one here; None: only a shell does.
    """
    blocks: list[pn.viewable.Viewable | pn.viewable.Viewer] = []
    if problem is not None:
        blocks.append(parts.text(f"<h2>This study cannot be shown</h2><p>{html.escape(str(problem))}</p>"))
    if found:
        blocks.append(parts.text(f"<h2>Open a study</h2>{_list(found)}"))
    elif problem is None:
        blocks.append(
            parts.text(
                "<h2>No study yet</h2><p>A study holds what each tensor of a network gains and costs on a "
                "task. PockUI plans from it. Choose a task below: it is measured, and the study opens.</p>"
                if make is not None
                else "<h2>No study yet</h2><p>A study holds what each tensor of a network gains and costs "
                "on a task. PockUI plans from it.</p>"
            )
        )
    if make is not None:
        blocks += [parts.text("<h2>Make a study</h2>"), make]
    blocks.append(parts.text(f'<p class="hint">The same in a shell:</p>{parts.code(SHELL)}'))
    return _card(*blocks)


def _list(found: Sequence[StudyEntry]) -> str:
    lines = "".join(
        f"<tr><td>{_name(entry)}</td><td>{html.escape(entry.task)}</td><td>{html.escape(entry.note)}</td>"
        f"<td>{html.escape(entry.changed)}</td></tr>"
        for entry in found
    )
    head = "<tr><th>Study</th><th>Task</th><th>Measurements</th><th>Changed</th></tr>"
    return (
        '<div class="scroll" role="group" aria-label="Studies" tabindex="0">'
        f'<table class="texts"><thead>{head}</thead><tbody>{lines}</tbody></table></div>'
    )


def _name(entry: StudyEntry) -> str:
    """A link where it can be opened."""
    text = html.escape(str(entry.path))
    return f'<a href="?study={quote(str(entry.path))}">{text}</a>' if entry.is_measured else text
