"""What the widgets are made of: the draggable parts, pieces of HTML, and a kernel's turns."""

from __future__ import annotations

import asyncio
import html
import os
from collections.abc import Callable, Iterable
from typing import Any

import anywidget
import ipywidgets as w
import param
import traitlets

from pockgraph.study import Study

from ..components import properties, source, stylesheet
from ..facts import read_facts
from ..info.figure_tiles import Tile
from ..scheduling import AtOnce, Scheduler
from ..state import State
from ..watching import WATCH

TRAITS: dict[type, Callable[..., traitlets.TraitType]] = {
    param.List: traitlets.List,
    param.Dict: traitlets.Dict,
    param.String: traitlets.Unicode,
    param.Integer: traitlets.Int,
    param.Number: traitlets.Float,
    param.Boolean: traitlets.Bool,
}
Source = State | Study | str | os.PathLike[str]
ALARM = "var(--jp-error-color1, #c62f3b)"
WIDE = {"width": "100%"}
BESIDE = {"width": "100%", "flex_flow": "row wrap"}  # of what is below each other where there is no room
HALF = {"flex": "1 1 280px", "width": "auto", "min_width": "0"}  # of each of it
ROW = {"flex_flow": "row wrap", "grid_gap": "4px 10px", "align_items": "center"}  # of fields and buttons


def button(name: str, **options: Any) -> w.Button:
    """As wide as its name."""
    return w.Button(description=name, layout={"width": "auto"}, **options)


def named(name: str, width_px: int) -> dict[str, Any]:
    """Of a field: its name, as wide as it is, and the width of both."""
    return {
        "description": name,
        "style": {"description_width": "initial"},
        "layout": w.Layout(width=f"{width_px}px"),
    }


class KernelTurns:
    """A `Scheduler` on a kernel's own loop: nothing happens while a cell runs."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def soon(self, call: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(call)

    def later(self, ms: int, call: Callable[[], None]) -> Callable[[], None]:
        return self._loop.call_later(ms / 1000, call).cancel


def _scheduler() -> Scheduler:
    try:
        return KernelTurns(asyncio.get_running_loop())
    except RuntimeError:  # no kernel: a script, or a test
        return AtOnce()


def state_of(what: Source) -> State:
    """The state that widgets share; of a study, or of its file, a new one.

    Raises:
        StudyError: no study there, or nothing was measured yet.
        PlanError: no plan can be made of what the study knows.
    """
    if isinstance(what, State):
        return what
    if isinstance(what, Study):
        _ = what.profile  # makes it, where this is the first to ask
        what = what.path
    state = State(scheduler=_scheduler(), dark=None)
    state.show(read_facts(what))
    return state


class OfStudy(w.VBox):
    """What shows a state. One that it makes itself follows the study's file until the widget is closed."""

    _stop_following: Callable[[], None] = staticmethod(lambda: None)

    def state_of(self, source: Source) -> State:
        """The state to show, as the function of this name gives it."""
        state = state_of(source)
        if state is not source and isinstance(state.scheduler, KernelTurns):
            self._stop_following = WATCH.follow(state, state.scheduler)
        return state

    def close(self) -> None:
        self._stop_following()
        super().close()


class Part(anywidget.AnyWidget):
    """A draggable part. Its traits are those of `components.properties`."""

    ack: int

    def put(self, **values: Any) -> None:
        with self.hold_sync():
            for name, value in values.items():
                setattr(self, name, value)

    def on_edit(self, handle: Callable[[dict[str, Any]], None]) -> None:
        """Have `handle` deal with the edits, one after the other, and tell the browser."""

        def edited(change: Any) -> None:
            try:
                handle(change["new"])
            finally:
                self.ack = change["new"]["seq"]

        self.observe(edited, "edit")

    @property
    def visible(self) -> bool:
        return self.layout.display != "none"

    @visible.setter
    def visible(self, on: bool) -> None:
        self.layout.display = None if on else "none"


def _part(name: str, declared: type[properties.Editable]) -> type[Part]:
    """The widget of a component: its `.js` file, and a trait for each property."""
    traits: dict[str, Any] = {}
    for key in declared.param:
        prop = declared.param[key]
        if key != "name":
            kwargs: dict[str, Any] = {"allow_none": True} if prop.allow_None else {}
            traits[key] = TRAITS[type(prop)](default_value=prop.default, **kwargs).tag(sync=True)
    files = {"_esm": source(name), "_css": stylesheet(), "__doc__": declared.__doc__, "__module__": __name__}
    return type(Part)(declared.__name__, (Part,), {**files, **traits})


LayerBarsPart = _part("layer_bars", properties.LayerBars)
BudgetBarPart = _part("budget_bar", properties.BudgetBar)
ChartPart = _part("chart", properties.Chart)


def tiles_html(tiles: Iterable[Tile]) -> str:
    """Figures with their names, side by side."""
    out = []
    for tile in tiles:
        colour = ALARM if tile.alarm else "inherit"
        out.append(
            f'<div title="{html.escape(tile.help)}">'
            f'<div style="font-size:12px;opacity:.7">{html.escape(tile.label)}</div>'
            f'<div style="font-size:18px;font-weight:600;color:{colour}">{html.escape(tile.value)}</div>'
            f'<div style="font-size:12px;opacity:.7">{html.escape(tile.note)}</div></div>'
        )
    grid = "display:grid;grid-template-columns:repeat(auto-fill,130px);gap:8px 12px;line-height:1.35"
    return f'<div style="{grid}">{"".join(out)}</div>'


def said(text: str, problem: bool = False) -> str:
    """A sentence, for an `HTML` widget; empty for none."""
    colour = ALARM if problem else "inherit"
    role = "alert" if problem else "status"
    style = f"color:{colour};line-height:1.35"
    return f'<div role="{role}" style="{style}">{html.escape(text)}</div>' if text else ""


def table_html(columns: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A table for an `HTML` widget."""
    style = 'style="text-align:left;vertical-align:top;padding:2px 14px 2px 0"'
    head = "".join(f"<th {style}>{html.escape(c)}</th>" for c in columns)
    rows = ("".join(f"<td {style}>{html.escape(c)}</td>" for c in line) for line in lines)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<table style="line-height:1.35"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
