"""A figure of `charts` as an SVG file, for those who take it elsewhere: no scripts, nothing from outside.

Draws what `components/chart_drawing.js` draws, without what only a pointer needs.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Figure = Mapping[str, Any]
Item = Mapping[str, Any]
Scale = Callable[[float], float]

LETTER_PX = 6.4  # of a digit in the font of the ticks
NAME_PX = 6.6  # of a letter of a legend
LEGEND_ROW_PX = 18
FONT = "Roboto, system-ui, sans-serif"
DASHES = {
    "dash": "6 4", "dot": "1.5 3.5", "dashdot": "6 3 1.5 3", "longdash": "11 4", "longdashdot": "11 3 1.5 3",
}  # fmt: skip


class Box(NamedTuple):
    """Where the plot is."""

    left: float
    top: float
    right: float
    bottom: float


def element(tag: str, content: str | None = None, **attributes: Any) -> str:
    """An element of SVG; `text_anchor` is written `text-anchor`, and None is left out."""
    said = "".join(
        f' {name.replace("_", "-")}="{html.escape(_number(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{said}/>" if content is None else f"<{tag}{said}>{content}</{tag}>"


def _number(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def text(content: str, x: float, y: float, colour: str, size: float = 11, **more: Any) -> str:
    return element("text", html.escape(content), x=x, y=y, fill=colour, font_size=size, **more)


def document(content: Iterable[str], width: float, height: float, paper: str, label: str) -> str:
    """A drawing as a file."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
            f'viewBox="0 0 {width:g} {height:g}" role="img" font-family="{FONT}">',
            element("title", html.escape(label)),
            element("rect", width=width, height=height, fill=paper),
            *content,
            "</svg>\n",
        ]
    )


def chart_svg(figure: Figure, label: str, paper: str, width: int = 720) -> str:
    """The file's text.

    Args:
        label: what the chart shows, in words. paper: the colour behind it.
        width: in pixels; the figure has its height.
    """
    layout, traces = figure["layout"], figure["data"]
    height = layout["height"]
    heights = [y for trace in traces for y in _extent(trace)]
    left, right = _range(layout["xaxis"], [x for trace in traces for x in trace["x"]])
    low, high = _range(layout["yaxis"], heights)
    y_ticks = _ticks(layout["yaxis"], low, high, height / 55)
    margin, start = layout["margin"], 26 + LETTER_PX * max(len(said) for _, said in y_ticks)
    names, rows = [], 1
    if layout["showlegend"]:
        names, rows = _legend(traces, start, width - margin["r"], layout["font"])
    below = (rows - 1) * LEGEND_ROW_PX  # one row has its place in the margin
    height += below
    box = Box(start, margin["t"] + below, width - margin["r"], height - margin["b"])
    x_ticks = _ticks(layout["xaxis"], left, right, (box.right - box.left) / 75)

    def across(x: float) -> float:
        return box.left + (x - left) / (right - left) * (box.right - box.left)

    def up(y: float) -> float:
        return box.bottom - (y - low) / (high - low) * (box.bottom - box.top)

    inside = [_shape(shape, box, across, up) for shape in layout["shapes"]]
    inside += [_area(trace, before, across, up, box) for before, trace in zip([None, *traces], traces)]
    for trace in traces:
        inside += _line(trace, across, up)
    plot = {"x": box.left, "y": box.top, "width": box.right - box.left, "height": box.bottom - box.top}
    view = f"{box.left:g} {box.top:g} {plot['width']:g} {plot['height']:g}"
    drawn = [*_axes(layout, box, x_ticks, y_ticks, across, up)]
    drawn.append(element("svg", "".join(inside), **plot, viewBox=view))
    for trace in traces:
        drawn += _points(trace, across, up)
    drawn += [_label(label, box, across, up) for label in layout["annotations"]]
    drawn += _names_of_limits(layout, box, across)
    return document([*drawn, *names], width, height, paper, label)


def _extent(trace: Item) -> list[float]:
    error = trace.get("error_y")
    if not error:
        return [*trace["y"]]
    below = error.get("arrayminus", error["array"])
    ends = zip(trace["y"], error["array"], below, strict=True)
    return [y for middle, above, under in ends for y in (middle + above, middle - under)]


def _range(axis: Item, values: Sequence[float]) -> tuple[float, float]:
    if "range" in axis:
        low, high = axis["range"]
        return low, high
    from_zero = axis.get("rangemode") == "tozero"
    values = values or (0.0,)
    low = min(0.0, *values) if from_zero else min(values)
    high = max(values)
    pad = 0.06 * (high - low) or abs(high) * 0.06 or 1.0
    return (low if from_zero and low == 0 else low - pad), high + pad


def _ticks(axis: Item, low: float, high: float, count: float) -> list[tuple[float, str]]:
    """About `count` round numbers between two ends, with their texts."""
    if "tickvals" in axis:
        return list(zip(axis["tickvals"], axis["ticktext"], strict=True))
    rough = (high - low) / max(1.0, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(i * step, f"{i * step or 0.0:,.{digits}f}".replace("-", "−")) for i in range(first, last + 1)]


def _axes(
    layout: Item, box: Box, x_ticks: Sequence[Any], y_ticks: Sequence[Any], across: Scale, up: Scale
) -> list[str]:
    axis = layout["xaxis"]
    grid = {"stroke": axis["gridcolor"], "stroke_width": 1, "shape_rendering": "crispEdges"}
    colour, drawn = axis["tickfont"]["color"], []
    for value, said in y_ticks:
        drawn.append(element("line", x1=box.left, x2=box.right, y1=up(value), y2=up(value), **grid))
        drawn.append(text(said, box.left - 7, up(value) + 4, colour, text_anchor="end"))
    for value, said in x_ticks:
        drawn.append(element("line", x1=across(value), x2=across(value), y1=box.top, y2=box.bottom, **grid))
        drawn.append(text(said, across(value), box.bottom + 17, colour, text_anchor="middle"))
    titled = {"colour": axis["title"]["font"]["color"], "size": 12, "text_anchor": "middle"}
    drawn.append(text(axis["title"]["text"], (box.left + box.right) / 2, box.bottom + 36, **titled))
    middle = (box.top + box.bottom) / 2
    turned = f"rotate(-90 12 {middle:g})"
    drawn.append(text(layout["yaxis"]["title"]["text"], 12, middle, **titled, transform=turned))
    return drawn


def _stroke(line: Item) -> dict[str, Any]:
    dash = DASHES.get(line.get("dash", ""))
    return {"stroke": line["color"], "stroke_width": line.get("width", 1), "stroke_dasharray": dash}


def _shape(shape: Item, box: Box, across: Scale, up: Scale) -> str:
    def x(value: float) -> float:
        return box.left + value * (box.right - box.left) if shape.get("xref") == "x domain" else across(value)

    def y(value: float) -> float:
        return box.bottom - value * (box.bottom - box.top) if shape.get("yref") == "y domain" else up(value)

    opacity = shape.get("opacity", 1)
    if shape["type"] == "rect":
        width, height = max(0.0, x(shape["x1"]) - x(shape["x0"])), y(shape["y0"]) - y(shape["y1"])
        place = {"x": x(shape["x0"]), "y": y(shape["y1"]), "width": width, "height": height}
        return element("rect", None, **place, fill=shape["fillcolor"], opacity=opacity)
    ends = {"x1": x(shape["x0"]), "x2": x(shape["x1"]), "y1": y(shape["y0"]), "y2": y(shape["y1"])}
    return element("line", **ends, opacity=opacity, **_stroke(shape["line"]))


def _places(trace: Item, across: Scale, up: Scale) -> list[tuple[float, float]]:
    return [(across(x), up(y)) for x, y in zip(trace["x"], trace["y"], strict=True)]


def _path(points: Sequence[tuple[float, float]], steps: bool, first: str = "M") -> str:
    """From point to point, in steps or straight."""
    return "".join(
        f"{first}{x:.2f} {y:.2f}" if i == 0 else f"H{x:.2f}V{y:.2f}" if steps else f"L{x:.2f} {y:.2f}"
        for i, (x, y) in enumerate(points)
    )


def _area(trace: Item, before: Item | None, across: Scale, up: Scale, box: Box) -> str:
    """The room between a line and the one before it, or the axis, as Plotly's `fill` has it."""
    points = _places(trace, across, up)
    if "fillcolor" not in trace or not points:
        return ""
    steps = trace["line"].get("shape") == "hv"
    under = [(points[0][0], box.bottom), (points[-1][0], box.bottom)]
    if trace["fill"] == "tonexty" and before is not None:
        under = _places(before, across, up)
    back = [*reversed(under)]
    way = _path(back, False, "L")
    if steps:  # the same steps, from the end to the start
        way = f"L{back[0][0]:.2f} {back[0][1]:.2f}" + "".join(f"V{y:.2f}H{x:.2f}" for x, y in back[1:])
    return element("path", d=f"{_path(points, steps)}{way}Z", fill=trace["fillcolor"])


def _line(trace: Item, across: Scale, up: Scale) -> list[str]:
    """A trace's line, and its error bars."""
    points, drawn = _places(trace, across, up), []
    if "lines" in trace["mode"] and points and trace["line"].get("width") != 0:
        path = _path(points, trace["line"].get("shape") == "hv")
        look = _stroke(trace["line"])
        drawn.append(element("path", d=path, fill="none", stroke_linejoin="round", **look))
    error = trace.get("error_y")
    if not error:
        return drawn
    opacity = 0.4 if len(points) > 8 else 1  # many intervals would hide what they belong to
    below = error.get("arrayminus", error["array"])
    for x, y, above, under in zip(trace["x"], trace["y"], error["array"], below, strict=True):
        at, top, bottom = across(x), up(y + above), up(y - under)
        path = f"M{at:.2f} {top:.2f}V{bottom:.2f}M{at - 3:.2f} {top:.2f}h6M{at - 3:.2f} {bottom:.2f}h6"
        look = {"stroke": error["color"], "stroke_width": error["thickness"], "opacity": opacity}
        drawn.append(element("path", d=path, fill="none", **look))
    return drawn


def _points(trace: Item, across: Scale, up: Scale) -> list[str]:
    drawn = []
    for i, (x, y) in enumerate(zip(trace["x"], trace["y"], strict=True)):
        at, height = across(x), up(y)
        if "markers" in trace["mode"]:
            drawn.append(_marker(trace["marker"], at, height))
        if "text" in trace["mode"]:
            vertical, side = trace["textposition"][i].split(" ")
            before = side == "left"
            place = (at + (-7 if before else 7), height + (-6 if vertical == "top" else 15))
            anchor = "end" if before else "start"
            drawn.append(text(trace["text"][i], *place, trace["textfont"]["color"], text_anchor=anchor))
    return drawn


def _marker(marker: Item, x: float, y: float) -> str:
    r, symbol, line = marker.get("size", 7) / 2, marker.get("symbol", ""), marker.get("line", {})
    hollow = symbol.endswith("-open")
    look = {
        "fill": "none" if hollow else marker["color"],
        "stroke": marker["color"] if hollow else line.get("color"),
        "stroke_width": line.get("width", 1.5 if hollow else 0),
    }
    if symbol.startswith("diamond"):
        path = f"M{x:.2f} {y - r:.2f}L{x + r:.2f} {y:.2f}L{x:.2f} {y + r:.2f}L{x - r:.2f} {y:.2f}Z"
        return element("path", d=path, **look)
    return element("circle", cx=x, cy=y, r=r, **look)


def _label(label: Item, box: Box, across: Scale, up: Scale) -> str:
    width, height = box.right - box.left, box.bottom - box.top
    x = box.left + label["x"] * width if label.get("xref") == "paper" else across(label["x"])
    y = box.bottom - label["y"] * height if label.get("yref") == "paper" else up(label["y"])
    return _beside(label["text"].strip(), x, y - 4, box, label["font"])


def _names_of_limits(layout: Item, box: Box, across: Scale) -> list[str]:
    """Of lines that can be moved in the page."""
    drawn = []
    for shape in layout["shapes"]:
        if "label" in shape:
            x = across(shape["x0"])
            said = shape["label"]["text"]
            said = "no limit" if said and x >= box.right - 0.01 else said
            drawn.append(_beside(said, x, box.bottom - 6, box, shape["label"]["font"]))
    return drawn


def _beside(said: str, x: float, y: float, box: Box, font: Item) -> str:
    near_end = x > box.right - 60
    anchor = "end" if near_end else "start"
    return text(said, x + (-5 if near_end else 5), y, font["color"], font["size"], text_anchor=anchor)


def _legend(traces: Sequence[Item], left: float, right: float, font: Item) -> tuple[list[str], int]:
    """Names of the lines and areas, side by side, and how many rows they need."""
    drawn, x, row = [], left, 0
    for trace in traces:
        if trace.get("showlegend") is False:
            continue
        name, before = html.unescape(trace["name"]), 16 if "fillcolor" in trace else 27
        size = before + NAME_PX * len(name)
        if x > left and x + size > right:
            x, row = left, row + 1
        y = 12 + LEGEND_ROW_PX * row
        if "fillcolor" in trace:
            drawn.append(element("rect", x=x, y=y - 6, width=11, height=11, rx=2, fill=trace["fillcolor"]))
        else:
            drawn.append(element("line", x1=x, x2=x + 22, y1=y, y2=y, **_stroke(trace["line"])))
        drawn.append(text(name, x + before, y + 4, font["color"], font["size"]))
        x += size + 18
    return drawn, row + 1
