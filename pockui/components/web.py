"""The draggable parts in the web app."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from panel.custom import AnyWidgetComponent
from panel.io import hold

from . import properties, source, stylesheet

STYLES = [stylesheet()]


class _OnPage(properties.Editable):
    """What bindings need of a part."""

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


class LayerBars(_OnPage, properties.LayerBars, AnyWidgetComponent):
    _esm = source("layer_bars")
    _stylesheets = STYLES
    _debounce = 0
    _react_version = "18.3.1"


class BudgetBar(_OnPage, properties.BudgetBar, AnyWidgetComponent):
    _esm = source("budget_bar")
    _stylesheets = STYLES
    _debounce = 0
    _react_version = "18.3.1"


class Chart(_OnPage, properties.Chart, AnyWidgetComponent):
    _esm = source("chart")
    _stylesheets = STYLES
    _debounce = 0
    _react_version = "18.3.1"


class Records(_OnPage, properties.Records, AnyWidgetComponent):
    _esm = source("records")
    _stylesheets = STYLES
    _debounce = 0
    _react_version = "18.3.1"


class Tree(_OnPage, properties.Tree, AnyWidgetComponent):
    _esm = source("tree")
    _stylesheets = STYLES
    _debounce = 0
    _react_version = "18.3.1"


class Pictures(_OnPage, properties.Pictures, AnyWidgetComponent):
    _esm = source("pictures")
    _stylesheets = STYLES
    _debounce = 0
    _react_version = "18.3.1"


class Copy(properties.Copy, AnyWidgetComponent):
    _esm = source("copy")
    _stylesheets = STYLES
    _react_version = "18.3.1"


class Page(_OnPage, properties.Page, AnyWidgetComponent):
    _esm = source("page")
    _debounce = 0
    _react_version = "18.3.1"
