"""Two-sided bars per tensor with a draggable trained share, for the web app."""

from __future__ import annotations

import param
from panel.custom import AnyWidgetComponent

from . import source, stylesheet


class LayerBars(AnyWidgetComponent):
    """Shows `rows` and reports edits; it changes nothing by itself.

    Edits arrive in `edit`, each with a new `seq`:
    `{"kind": "ratio", "id", "ratio", "final"}`, `{"kind": "lock", "id", "on", "ratio"}` or
    `{"kind": "select", "id"}`.
    """

    rows = param.List(default=[], doc="What `pockui.info.layers.layer_rows` gives.")
    scale = param.Dict(default={}, doc="Ends and titles of the two axes.")
    ratios = param.Dict(default={}, doc="Row id -> trained share, 0..1; a row left out is frozen.")
    locked = param.List(default=[], doc="Ids of the rows whose share a search keeps.")
    selected = param.String(default="", doc="Id of the highlighted row.")
    empty = param.String(default="", doc="What to say when there are no rows.")
    edit = param.Dict(default={}, doc="The last edit in the browser.")
    ack = param.Integer(default=0, doc="Number of the last edit that was dealt with.")

    _esm = source("layer_bars")
    _stylesheets = [stylesheet()]  # noqa: RUF012 (Panel's own attribute)
    _debounce = 0
    _react_version = "18.3.1"
