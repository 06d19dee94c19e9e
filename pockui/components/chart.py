"""A Plotly figure that the page's theme leaves alone, for the web app."""

from __future__ import annotations

import param
from panel.custom import AnyWidgetComponent

from . import source


class Chart(AnyWidgetComponent):
    """Shows a figure; `edit` is `{"kind": "click", "index", "seq"}` for points with whole `customdata`.

    Needs `pn.extension("plotly")`, which brings Plotly's JavaScript.
    """

    figure = param.Dict(default={}, doc="A figure as plain data and layout.")
    label = param.String(doc="What the chart shows, for those who cannot see it.")
    edit = param.Dict(default={})
    ack = param.Integer(default=0, doc="Number of the last edit that was dealt with.")

    _esm = source("chart")
    _debounce = 0
    _react_version = "18.3.1"
