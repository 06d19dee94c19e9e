"""The draggable parts in the web app."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from panel.custom import AnyWidgetComponent
from panel.io import hold

from . import properties, source, stylesheet

STYLES = [stylesheet()]


class _Part(AnyWidgetComponent):
    """A part whose code is React's."""

    __abstract = True
    _stylesheets = STYLES
    _react_version = "18.3.1"


class _OnPage(_Part, properties.Editable):
    """A part that is edited, with what bindings need of it."""

    __abstract = True
    _debounce = 0

    def put(self, **values: Any) -> None:
        self.param.update(**values)

    def on_edit(self, handle: Callable[[dict[str, Any]], None]) -> None:
        """Have `handle` deal with the edits, one after the other, and tell the browser."""

        def edited(event: Any) -> None:
            with hold():  # all that an edit changes goes to the browser at once
                try:
                    handle(event.new)
                finally:
                    self.ack = event.new["seq"]

        self.param.watch(edited, "edit")


class LayerBars(properties.LayerBars, _OnPage):
    _esm = source("layer_bars")


class BudgetBar(properties.BudgetBar, _OnPage):
    _esm = source("budget_bar")


class Chart(properties.Chart, _OnPage):
    _esm = source("chart")


class Records(properties.Records, _OnPage):
    _esm = source("records")


class Tree(properties.Tree, _OnPage):
    _esm = source("tree")


class Pictures(properties.Pictures, _OnPage):
    _esm = source("pictures")


class Copy(properties.Copy, _Part):
    _esm = source("copy")


class Page(properties.Page, _OnPage):
    _esm = source("page")
