"""The layer bars as an SVG file: gain to the left, cost to the right, the trained share beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import format as fmt
from .chart_svg import document, element, text
from .costs import Cost
from .gains import estimated_interval
from .layer_filter import BIASES
from .layers import LayerRow, component_scale
from .palette import Palette

WIDTH, ROW, TOP = 760, 22, 34
NAME, GAIN, COST, SHARE = (12, 240), (250, 430), (434, 600), (618, 748)  # from and to, in pixels
LETTERS = 36  # of a name


def layers_svg(
    rows: Sequence[LayerRow],
    ratios: Mapping[str, float],
    cost: Cost,
    metric: fmt.MetricScale,
    colours: Palette,
    label: str,
) -> str:
    """The file's text.

    Args:
        rows: those to show, from top to bottom. ratios: row id -> trained share.
        label: what it shows, in words.
    """
    scale = component_scale(rows, cost, metric)
    heads = (
        ("Tensor", NAME[0], "start"), (scale["gain_title"], GAIN[1], "end"),
        (scale["cost_title"], COST[0] + 4, "start"), ("Trained share", SHARE[0], "start"),
    )  # fmt: skip
    drawn = [text(said, x, 21, colours.soft, 12, text_anchor=anchor) for said, x, anchor in heads]
    drawn.append(element("line", x1=0, x2=WIDTH, y1=TOP, y2=TOP, stroke=colours.line, stroke_width=1))
    low, high = scale["gain_low"], scale["gain_high"]
    for i, row in enumerate(rows):
        drawn += _row(row, 1.0 if row.fixed else ratios.get(row.id, 0.0), TOP + ROW * i, cost, colours,
                      (low, high or 1.0, scale["cost_high"] or 1.0))  # fmt: skip
    bottom = TOP + ROW * len(rows)
    at = _across(0.0, low, high or 1.0)
    drawn.append(element("line", x1=at, x2=at, y1=TOP, y2=bottom, stroke=colours.line, stroke_width=1))
    drawn.append(
        element("line", x1=COST[0], x2=COST[0], y1=TOP, y2=bottom, stroke=colours.line, stroke_width=1)
    )
    for said, x, anchor in (
        (metric.gain(high), GAIN[0], "start"), (cost.text(scale["cost_high"]), COST[1], "end"),
    ):  # fmt: skip
        drawn.append(text(said, x, bottom + 18, colours.soft, text_anchor=anchor))
    return document(drawn, WIDTH, bottom + 28, colours.paper, label)


def _across(gain: float, low: float, high: float) -> float:
    """Gains grow to the left."""
    inside = min(max(gain, low), high)
    return GAIN[0] + (high - inside) / ((high - low) or 1.0) * (GAIN[1] - GAIN[0])


def _row(
    row: LayerRow, ratio: float, top: float, cost: Cost, colours: Palette, ends: tuple[float, float, float]
) -> list[str]:
    low, high, cost_high = ends
    name = f"last {row.steps} biases" if row.id == BIASES else row.id
    if len(name) > LETTERS:
        name = f"…{name[1 - LETTERS :]}"
    drawn = [text(name, NAME[0], top + 15, colours.text if ratio else colours.soft, 12)]
    shown = 1.0 if ratio else 0.3

    if row.estimates:
        whole = row.estimates[max(row.estimates)]
        zero, at = _across(0.0, low, high), _across(whole.mean, low, high)
        bar = {"y": top + 6, "height": ROW - 12, "fill": colours.bad if whole.mean < 0 else colours.gain}
        drawn.append(element("rect", x=min(zero, at), width=abs(at - zero), opacity=shown, **bar))
        known = estimated_interval(whole)
        left, right, y = _across(known.high, low, high), _across(known.low, low, high), top + ROW / 2
        drawn.append(element("path", d=f"M{left:.2f} {y - 3}v6m0 -3H{right:.2f}m0 -3v6", fill="none",
                             stroke=colours.text, opacity=0.75))  # fmt: skip
    elif not row.fixed:
        drawn.append(text("not measured", GAIN[1] - 4, top + 15, colours.soft, text_anchor="end"))
    value = max(row.costs[cost.key] or 0.0, 0.0)
    if not row.fixed and value:
        width = value / cost_high * (COST[1] - COST[0])
        bar = {"x": COST[0], "width": width, "y": top + 6, "height": ROW - 12, "fill": colours.cost}
        drawn.append(element("rect", opacity=shown, **bar))
    rail = {"x": SHARE[0], "y": top + 9, "height": 4, "rx": 2}
    drawn.append(element("rect", width=80, fill=colours.line, **rail))
    if ratio:
        drawn.append(
            element("rect", width=80 * ratio, fill=colours.soft if row.fixed else colours.accent, **rail)
        )
    said = "head" if row.fixed else fmt.percent(ratio) if ratio else "frozen"
    drawn.append(text(said, SHARE[1], top + 15, colours.text if ratio else colours.soft, text_anchor="end"))
    return drawn
