"""A draggable budget with what the plan uses of it, for the web app."""

from __future__ import annotations

import param
from panel.custom import AnyWidgetComponent

from . import source, stylesheet


class BudgetBar(AnyWidgetComponent):
    """Shows one budget and reports edits: `{"kind": "budget", "value": float | None, "final", "seq"}`.

    None means no limit. All figures are in `unit`.
    """

    label = param.String()
    unit = param.String()
    help = param.List(default=[], doc="Label-value lines shown while the pointer is on the label.")
    start = param.Number(default=0)
    end = param.Number(default=1)
    floor = param.Number(default=0, doc="Below this no plan fits.")
    value = param.Number(default=None, allow_None=True)
    used = param.Number(default=None, allow_None=True, doc="What the current plan needs.")
    marks = param.List(default=[], doc="Well-known plans: `{name, value, help}`.")
    disabled = param.Boolean(default=False)
    edit = param.Dict(default={})
    ack = param.Integer(default=0, doc="Number of the last edit that was dealt with.")

    _esm = source("budget_bar")
    _stylesheets = [stylesheet()]  # noqa: RUF012 (Panel's own attribute)
    _debounce = 0
    _react_version = "18.3.1"
