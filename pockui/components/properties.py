"""What each draggable part is given, and what it reports: declared once for the web app and for notebooks.

Python → browser: all but `edit`. Browser → Python: `edit`, one property that carries all edits, each with a
new number `seq`; `ack` tells the browser which was dealt with last.
"""

from __future__ import annotations

import param


class Editable(param.Parameterized):
    """A part that reports edits; it changes nothing by itself."""

    edit = param.Dict(default={}, doc="The last edit in the browser.")
    ack = param.Integer(default=0, doc="Number of the last edit that was dealt with.")


class LayerBars(Editable):
    """Two-sided bars per tensor with a draggable trained share.

    Edits: `{"kind": "ratio", "id", "ratio", "final"}`, `{"kind": "lock", "id", "on", "ratio"}` or
    `{"kind": "select", "id"}`. The first two may have `ids`: of all rows that are meant.
    """

    rows = param.List(default=[], doc="What `pockui.info.layers.component_rows` gives.")
    scale = param.Dict(default={}, doc="Ends and titles of the two axes.")
    ratios = param.Dict(default={}, doc="Row id -> trained share, 0..1; a row left out is frozen.")
    locked = param.List(default=[], doc="Ids of the rows whose share a search keeps.")
    selected = param.String(default="", doc="Id of the highlighted row.")
    empty = param.String(default="", doc="What to say when there are no rows.")
    count = param.String(default="", doc="How many rows are shown of how many, or why the filter cannot be.")
    refused = param.Boolean(default=False, doc="Whether `count` says why the filter cannot be.")


class BudgetBar(Editable):
    """A draggable budget with what the plan uses of it. All figures are in `unit`.

    Edits: `{"kind": "budget", "value": float | None, "final"}`, where None means no limit; or
    `{"kind": "budget", "text", "final"}`, which a person typed.
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


class Page(Editable):
    """No part that is seen: the page's address, undo by keyboard, and connecting again.

    Edits: `{"kind": "undo"}` and `{"kind": "redo"}`.
    """

    query = param.Dict(default={}, doc="Key -> value of the address; None: not in it. Others stay.")


class Chart(Editable):
    """A figure of `pockui.info.charts`, in Plotly's terms.

    Edits: `{"kind": "click", "index"}` for points with whole `customdata`;
    `{"kind": "move", "value": float | None, "final"}` of the shape that is `editable`, in the axis' unit;
    None: it stands at the right end, and there is an `end_text`.
    """

    figure = param.Dict(default={}, doc="A figure as plain data and layout.")
    label = param.String(doc="What the chart shows, for those who cannot see it.")
    end_text = param.String(doc="What the movable shape means at the right end; empty: its place alone.")


class Tree(Editable):
    """A tree of rows with figures. What is open is the browser's affair: no edits."""

    label = param.String(doc="What the tree shows.")
    first = param.String(doc="Title of the names' column.")
    columns = param.List(default=[], doc="`{title, help}` of each figure.")
    rows = param.List(default=[], doc="What `pockui.info.graph.tree_rows` gives.")


class Records(Editable):
    """A table of runs and plans.

    Edits: `{"kind": "choose", "id", "on"}`, `{"kind": "pin", "id"}` or `{"kind": "open", "id"}`.
    """

    columns = param.List(default=[], doc="`{title, help}` of each figure.")
    rows = param.List(default=[], doc="What `pockui.info.records.table_rows` gives.")


class Pictures(Editable):
    """Charts to take away. Edits: `{"kind": "picture", "key", "format": "SVG" | "PNG"}`."""

    pictures = param.List(default=[], doc="`{key, title}` of each chart.")
    picture = param.Dict(default={}, doc="`{seq, name, format, svg}`: what the edit `seq` asked for.")


class Copy(param.Parameterized):
    """A button that copies a text."""

    label = param.String(default="Copy")
    text = param.String()
