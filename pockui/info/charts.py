"""Plotly figures, as plain data and layout, of what the other modules here compute.

`components/chart_drawing.js` draws the kinds of traces, shapes and labels that are made here. Plotly's own
classes check every attribute of every figure, which takes longer than all else that an edit needs; here the
tests do.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from .curves import CostCurve, GainCurve
from .format import MetricScale
from .frontier import FrontierInfo, FrontierPoint
from .palette import Palette
from .records import LossCurve
from .timeline import Timeline

Figure = dict[str, Any]
Item = dict[str, Any]

HEIGHT_PX = 250


def _figure(
    colours: Palette,
    data: list[Item],
    x: Item,
    y: Item,
    shapes: Sequence[Item] = (),
    annotations: Sequence[Item] = (),
    height: int = HEIGHT_PX,
) -> Figure:
    """A figure in the page's colours; every setting that a theme could change is set."""
    return {
        "data": data,
        "layout": {
            "template": None,
            "height": height,
            "autosize": True,
            "margin": {"l": 52, "r": 14, "t": 12, "b": 44},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "Roboto, system-ui, sans-serif", "color": colours.text, "size": 12},
            "hoverlabel": {
                "bgcolor": colours.paper,
                "bordercolor": colours.line,
                "font": {"color": colours.text},
            },
            "showlegend": False,
            "hovermode": "closest",
            "xaxis": _axis(colours, **x),
            "yaxis": _axis(colours, **y),
            "shapes": [*shapes],
            "annotations": [*annotations],
        },
    }


def _axis(colours: Palette, title: str, **more: Any) -> Item:
    font = {"color": colours.soft, "size": 12}
    return {
        "gridcolor": colours.line,
        "zeroline": False,
        "linecolor": colours.line,
        "tickfont": {"color": colours.soft, "size": 11},
        "title": {"font": font, "standoff": 8, "text": title},
        "automargin": True,
        "fixedrange": True,
        **more,
    }


def _scatter(x: Sequence[float], y: Sequence[float], mode: str, **more: Any) -> Item:
    trace = {"type": "scatter", "x": [*x], "y": [*y], "mode": mode}
    return trace | {"hovertemplate": "%{text}<extra></extra>"} | more


def _across(y: float, **line: Any) -> Item:
    """A line through the whole plot at one height."""
    return {"type": "line", "xref": "x domain", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": line}


def _upright(x: float, opacity: float = 1, **line: Any) -> Item:
    place = {"yref": "y domain", "x0": x, "x1": x, "y0": 0, "y1": 1}
    return {"type": "line", **place, "line": line, "opacity": opacity}


def _label(text: str, colours: Palette, **place: Any) -> Item:
    font = {"size": 11, "color": colours.accent}
    return {"text": text, "font": font, "showarrow": False, "xanchor": "left", "yanchor": "bottom", **place}


def gain_chart(curve: GainCurve, colours: Palette) -> Figure:
    """Estimated gain against the trained share, with intervals; rings as measured; where the plan stands."""
    interval = {
        "type": "data",
        "symmetric": True,
        "array": [p.half for p in curve.points],
        "color": colours.gain,
        "thickness": 1,
        "width": 3,
    }
    line = _scatter(
        [p.percent for p in curve.points],
        [p.gain for p in curve.points],
        "lines+markers",
        error_y=interval,
        line={"color": colours.gain, "width": 2},
        marker={"size": 7, "color": colours.gain},
        text=[p.text for p in curve.points],
        name="estimated",
    )
    rings = _scatter(
        [p.percent for p in curve.measured],
        [p.gain for p in curve.measured],
        "markers",
        marker={"size": 8, "symbol": "circle-open", "color": colours.soft, "line": {"width": 1.5}},
        text=[p.text for p in curve.measured],
        name="measured",
    )
    zero = _across(0, color=colours.soft, width=1, dash="dot")
    x = _share_axis(curve.share_title)
    return _figure(
        colours, [rings, line], x, {"title": curve.title}, [zero, _now(curve.now_percent, colours)]
    )


def cost_chart(curve: CostCurve, colours: Palette) -> Figure:
    """The whole plan's cost against one tensor's share, everything else as it is."""
    line = _scatter(
        [p.percent for p in curve.points],
        [p.cost for p in curve.points],
        "lines+markers",
        line={"color": colours.cost, "width": 2},
        marker={"size": 5, "color": colours.cost},
        text=[p.text for p in curve.points],
    )
    shapes, labels = [_now(curve.now_percent, colours)], []
    if curve.budget is not None:
        shapes.append(_across(curve.budget, color=colours.accent, width=1.5, dash="dash"))
        labels.append(_label("budget", colours, x=0, xref="paper", y=curve.budget))
    return _figure(colours, [line], _share_axis(curve.share_title), {"title": curve.title}, shapes, labels)


def _now(percent: float, colours: Palette) -> Item:
    return _upright(percent, 0.6, color=colours.accent, width=1.5)


def _share_axis(title: str) -> Item:
    ticks = [0, 25, 50, 75, 100]
    return {"title": title, "range": [-4, 104], "tickvals": ticks, "ticktext": [f"{t} %" for t in ticks]}


def frontier_chart(info: FrontierInfo, colours: Palette) -> Figure:
    """The forecast against a cost: the best plans, well-known ones, the current one, the budget."""
    steps = {"line": {"color": colours.gain, "width": 2, "shape": "hv"}, "hoverinfo": "skip"}
    best = {"type": "scatter", "x": [x for x, _ in info.steps], "y": [y for _, y in info.steps], **steps}
    best |= {"mode": "lines", "name": "best known"}
    points = _scatter(
        [p.x for p in info.points],
        [p.y for p in info.points],
        "markers",
        error_y=_ends(info.points, colours.gain),
        marker={"size": 7, "color": colours.gain},
        text=[p.text for p in info.points],
        customdata=[p.place for p in info.points],
        name="frontier",
    )
    known = _scatter(
        [m.x for m in info.marks],
        [m.y for m in info.marks],
        "markers+text",
        marker={"size": 9, "symbol": "diamond-open", "color": colours.soft, "line": {"width": 1.5}},
        text=[m.name if m.side else "" for m in info.marks],
        textposition=[m.side or "top right" for m in info.marks],
        textfont={"size": 11, "color": colours.soft},
        hovertext=[m.text for m in info.marks],
        hovertemplate="%{hovertext}<extra></extra>",
        cliponaxis=False,
        name="well-known plans",
    )
    traces, shapes = [best, points, known], []
    if info.free:
        line = {"color": colours.soft, "width": 1.5, "shape": "hv", "dash": "dot"}
        free = {"type": "scatter", "x": [x for x, _ in info.free], "y": [y for _, y in info.free]}
        more = {"mode": "lines", "line": line, "hoverinfo": "skip", "name": "without locks and rules"}
        traces.insert(0, free | more)
    if info.infeasible_below is not None:
        sides = {"x0": info.x_range[0], "x1": info.infeasible_below, "y0": 0, "y1": 1, "yref": "y domain"}
        shade = {"fillcolor": colours.soft, "opacity": 0.09, "line": {"width": 0}}
        shapes.append({"type": "rect", **sides, **shade})
    at = info.x_range[1] if info.budget is None else info.budget  # at the right end it limits nothing
    budget = _upright(at, color=colours.accent, width=1.5, dash="dash")
    label = {"text": "budget", "font": {"size": 11, "color": colours.accent}}
    label |= {"textangle": 0, "textposition": "end", "xanchor": "left"}
    shapes.append({**budget, "name": f"Budget, {info.x_title}", "editable": True, "label": label})
    if info.now is not None:
        marker = {"size": 14, "color": colours.accent, "line": {"color": colours.paper, "width": 2}}
        now, ends = ([info.now.x], [info.now.y]), _ends([info.now], colours.accent)
        more = {"marker": marker, "error_y": ends, "text": [info.now.text], "name": "this plan"}
        traces.append(_scatter(*now, "markers", **more))
    if info.measured:
        marker = {"size": 9, "color": colours.text, "symbol": "diamond"}
        spots = ([p.x for p in info.measured], [p.y for p in info.measured])
        more = {"error_y": _ends(info.measured, colours.text), "text": [p.text for p in info.measured]}
        traces.append(_scatter(*spots, "markers", marker=marker, name="measured", **more))
    x = {"title": info.x_title, "range": [*info.x_range]}
    y = {"title": info.y_title, "range": [*info.y_range]}
    return _figure(colours, traces, x, y, shapes, height=300)


def _ends(points: Sequence[FrontierPoint], colour: str) -> Item:
    """Error bars over the intervals of some forecasts."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [p.high - p.y for p in points],
        "arrayminus": [p.y - p.low for p in points],
        "color": colour,
        "thickness": 1,
        "width": 3,
    }


def timeline_chart(found: Timeline, colours: Palette) -> Figure:
    """Bytes alive over a step: by kind, the peak, and other plans' steps."""
    fills = {
        "weights, constants, batch": _faded(colours.soft, 0.3),
        "optimizer state": _faded(colours.cost, 0.4),
        "activations": _faded(colours.cost, 0.8),
        "gradients": _faded(colours.text, 0.4),
        "updates": _faded(colours.text, 0.75),
    }
    xs = [p.x for p in found.points]
    traces, below = [], [0.0] * len(xs)
    for name, amounts in found.kinds.items():
        below = [a + b for a, b in zip(below, amounts)]
        fill = {"fill": "tonexty" if traces else "tozeroy", "fillcolor": fills[name]}
        line = {"width": 0, "shape": "hv"}
        traces.append({**_steps(xs, below, name), **fill, "line": line, "hoverinfo": "skip"})
    for other, dash in zip(found.others, ("dash", "dot")):
        points = [p.x for p in other.points], [p.y for p in other.points]
        line = {"color": colours.soft, "width": 1.5, "shape": "hv", "dash": dash}
        traces.append({**_steps(*points, other.name), "line": line, "hoverinfo": "skip"})
    line = {"color": colours.accent, "width": 1.5, "shape": "hv"}
    whole = {"text": [_lines(p.text) for p in found.points], "hovertemplate": "%{text}<extra></extra>"}
    whole |= {"line": line, "customdata": [*found.moments]}
    traces.append({**_steps(xs, [p.y for p in found.points], "this plan"), **whole})
    peak = {"marker": {"size": 10, "color": colours.accent}, "text": [f"peak: {_lines(found.peak.text)}"]}
    traces.append(_scatter([found.peak.x], [found.peak.y], "markers", name="peak", showlegend=False, **peak))
    quiet = {"font": {"size": 11, "color": colours.soft}, "yref": "paper", "y": 1}
    labels = [
        {**_label("forward", colours, x=0), **quiet},
        {**_label("backward and updates", colours, x=found.forward_ends), **quiet},
    ]
    ends = _upright(found.forward_ends, color=colours.soft, width=1, dash="dot")
    x = {"title": "Operators of the whole step, %", "range": [0, 100]}
    y = {"title": f"Alive, {found.unit.name}", "rangemode": "tozero"}
    figure = _figure(colours, traces, x, y, [ends], labels, height=330)
    figure = _with_legend(figure, 52, {"hovermode": "x"})
    figure["layout"]["legend"]["y"] = 1.09  # above the names of the passes
    return figure


def with_moment(figure: Figure, percent: float, colours: Palette) -> Figure:
    """A timeline with a line to move, at a place in the step."""
    name = "Moment of the step, in percent of its operators"
    label = {"text": "", "font": {"size": 11, "color": colours.text}}
    line = _upright(percent, color=colours.text, width=1.5) | {"name": name, "editable": True, "label": label}
    layout = figure["layout"]
    return {**figure, "layout": {**layout, "shapes": [*layout["shapes"], line]}}


def _steps(xs: Sequence[float], ys: Sequence[float], name: str) -> Item:
    return {"type": "scatter", "x": [*xs], "y": [*ys], "mode": "lines", "name": name}


def _lines(text: str) -> str:
    """Lines of plain text as a hover label has them."""
    return html.escape(text).replace("\n", "<br>")


def _faded(colour: str, opacity: float) -> str:
    if not colour.startswith("#"):  # a name that the browser resolves
        return f"color-mix(in srgb, {colour} {100 * opacity:g}%, transparent)"
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _with_legend(figure: Figure, top_px: int, more: Item | None = None) -> Figure:
    """Names of the lines above the plot."""
    figure["layout"] |= {
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        "margin": {**figure["layout"]["margin"], "t": top_px},
        **(more or {}),
    }
    return figure


def _finite(steps: Sequence[int], values: Sequence[float]) -> tuple[list[int], list[float]]:
    """Without those that have no place: the loss of a training that diverged."""
    kept = [(step, value) for step, value in zip(steps, values) if math.isfinite(value)]
    return [step for step, _ in kept], [value for _, value in kept]


def loss_chart(steps: Sequence[int], losses: Sequence[float], total: int, colours: Palette) -> Figure:
    """Training loss against the step."""
    steps, losses = _finite(steps, losses)
    line = _scatter(
        steps,
        losses,
        "lines",
        line={"color": colours.accent, "width": 2},
        hovertemplate="step %{x}: %{y:.4g}<extra></extra>",
    )
    x = {"title": "Step", "range": [0, max(total, 1)]}
    return _figure(colours, [line], x, {"title": "Training loss", "rangemode": "tozero"}, height=260)


def metric_chart(
    steps: Sequence[int], values: Sequence[float], total: int, metric: MetricScale, colours: Palette
) -> Figure:
    """The metric on the first validation samples against the step."""
    steps, values = _finite(steps, values)
    line = _scatter(
        steps,
        [value * metric.factor for value in values],
        "lines+markers",
        line={"color": colours.gain, "width": 2},
        marker={"size": 5, "color": colours.gain},
        text=[f"step {step:,}: {metric.level(value)}" for step, value in zip(steps, values)],
    )
    x = {"title": "Step", "range": [0, max(total, 1)]}
    title = "Validation metric, %" if metric.is_share else "Validation metric"
    return _figure(colours, [line], x, {"title": title}, height=260)


def losses_chart(curves: Sequence[LossCurve], colours: Palette) -> Figure:
    """Training losses of several runs over each other; colour and dashes tell them apart."""
    hues = (colours.accent, colours.gain, colours.cost, colours.bad, colours.text, colours.soft)
    dashes = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
    lines = [
        _scatter(
            *_finite(curve.steps, curve.losses),
            "lines",
            name=html.escape(curve.name),
            showlegend=True,
            line={"color": hue, "width": 2, "dash": dash},
            hovertemplate=f"{html.escape(curve.name)}<br>step %{{x}}: %{{y:.4g}}<extra></extra>",
        )
        for curve, hue, dash in zip(curves, hues, dashes)
    ]
    figure = _figure(
        colours, lines, {"title": "Step", "rangemode": "tozero"}, {"title": "Training loss"}, height=300
    )
    return _with_legend(figure, 36)
