"""What several views are made of."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui

from ..components.web import Chart

TYPE = (Path(__file__).parent / "type.css").read_text(encoding="utf-8")
TILES = (Path(__file__).parent / "tiles.css").read_text(encoding="utf-8")
# Fields and menus side by side are equally high.
FIELD = {f"{root}.MuiInputBase-root": {"height": "36px"} for root in ("& ", "&")}


def card(*objects: Any, **params: Any) -> pmui.Paper:
    """A bordered panel."""
    sx = {"p": {"xs": 1.5, "sm": 2}, "gap": 1, **params.pop("sx", {})}
    return pmui.Paper(
        *objects, variant="outlined", elevation=0, margin=0, sizing_mode="stretch_width", sx=sx, **params
    )


def text(content: str = "", **params: Any) -> pn.pane.HTML:
    """A piece of HTML in the page's own type and colours."""
    sheet = [TYPE, *params.pop("stylesheets", [])]
    return pn.pane.HTML(content, margin=0, sizing_mode="stretch_width", stylesheets=sheet, **params)


def heading(title: str, help: str = "") -> pn.pane.HTML:
    hint = f'<span class="hint">{html.escape(help)}</span>' if help else ""
    return text(f"<h2>{html.escape(title)}</h2>{hint}")


def chart(label: str, **properties: Any) -> Chart:
    return Chart(label=label, sizing_mode="stretch_width", margin=0, **properties)


def table(
    columns: Sequence[str], lines: Sequence[Sequence[str]], mark: int | None = None, label: str = "Plans"
) -> str:
    """An HTML table; the first column is a name, the others are figures. `label` says of what."""
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    body = "".join(
        f"<tr{' class=now' if i == mark else ''}>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in line)
        + "</tr>"
        for i, line in enumerate(lines)
    )
    # What may scroll has to be reachable by keyboard.
    scroll = f'<div class="scroll" role="group" aria-label="{html.escape(label)}" tabindex="0">'
    return f"{scroll}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def code(source: str) -> str:
    return f"<pre tabindex=0>{html.escape(source)}</pre>"


def put(pane: pn.pane.HTML, content: str) -> None:
    """Show `content`; an empty pane takes no room."""
    pane.param.update(object=content, visible=bool(content))


def tile_html(label: str, value: str, note: str, help: str = "", alarm: bool = False) -> str:
    """One figure with its name, what it is compared with, and what it means."""
    mark = " alarm" if alarm else ""
    return (
        f'<div class="tile{mark}" title="{html.escape(help)}"><div class="label">{html.escape(label)}</div>'
        f'<div class="value">{html.escape(value)}</div><div class="note">{html.escape(note)}</div></div>'
    )


def badge_html(text: str, detail: str, level: str) -> str:
    """A verdict in a pill, and what it rests on."""
    return (
        f'<p><span class="badge {level}">{html.escape(text)}</span> '
        f'<span class="hint inline">{html.escape(detail)}</span></p>'
    )


def hint_html(text: str) -> str:
    """A remark in small letters, for `put`."""
    return f'<p class="hint">{html.escape(text)}</p>' if text else ""


def problem_html(message: str, kind: str = "problem") -> str:
    """A sentence that says what is wrong, for `put`; empty for none.

    Material's own alert decodes what was escaped and sets it as HTML, so it must not be given names.
    """
    return f'<div class="{kind}" role="alert">{html.escape(message)}</div>' if message else ""


def set_choices(select: pmui.Select, options: Mapping[str, Any], value: Any) -> None:
    """Replace what there is to choose from, and what is chosen.

    The browser knows a choice by its label: the value is sent again, in case it has another label now.
    """
    select.param.update(options=dict(options), value=value)
    select.param.trigger("value")


class WhenShown:
    """Calls `show` on a change if its view is shown, else once, when it is shown again."""

    def __init__(self, show: Callable[[], None]) -> None:
        self._show = show
        self._shown, self._due = True, False

    def __call__(self, *_: object) -> None:
        self._due = not self._shown
        if self._shown:
            self._show()

    def set_shown(self, shown: bool) -> None:
        self._shown = shown
        if shown and self._due:
            self()


def draw_later(draws: Sequence[WhenShown]) -> None:
    """Have each draw what it has not drawn yet when its view is first shown: no page waits for it."""
    for draw in draws:
        draw.set_shown(False)
        draw()


def draw_when_shown(tabs: pmui.Tabs, views: Sequence[Any]) -> None:
    """Tell each view, one a tab, when its tab is shown and hidden: what nobody sees need not be computed.

    A tab that is an empty column gets its view when it is first shown.
    """

    def tell(*_: object) -> None:
        column: Any = tabs[tabs.active]
        if not column.objects:
            column.objects = [views[tabs.active]]
        for i, view in enumerate(views):
            view.set_shown(i == tabs.active)

    tabs.param.watch(tell, "active")
    tell()
