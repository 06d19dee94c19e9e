"""Plotly figures of what the other modules here compute. No Panel: notebooks use them, too.

Only attributes of plotly.js 3.1 and older are used: that is what the page brings along.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from .curves import CostCurve, GainCurve
from .frontier import FrontierInfo
from .palette import Palette

HEIGHT_PX = 250


def base(colours: Palette, height: int = HEIGHT_PX) -> go.Figure:
    """An empty figure in the page's colours; every setting that a theme could change is set."""
    axis = {
        "gridcolor": colours.line,
        "zeroline": False,
        "linecolor": colours.line,
        "tickfont": {"color": colours.soft, "size": 11},
        "title": {"font": {"color": colours.soft, "size": 12}, "standoff": 8},
        "automargin": True,
        "fixedrange": True,
    }
    return go.Figure(
        layout={
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
            "xaxis": axis,
            "yaxis": axis,
        }
    )


def gain_chart(curve: GainCurve, colours: Palette) -> go.Figure:
    """Gain against the trained share, with intervals, and where the plan stands."""
    figure = base(colours)
    figure.add_hline(y=0, line={"color": colours.soft, "width": 1, "dash": "dot"})
    figure.add_scatter(
        x=[p.percent for p in curve.points],
        y=[p.gain for p in curve.points],
        error_y={
            "type": "data",
            "symmetric": True,
            "array": [p.half for p in curve.points],
            "color": colours.gain,
            "thickness": 1,
            "width": 3,
        },
        mode="lines+markers",
        line={"color": colours.gain, "width": 2},
        marker={"size": 7, "color": colours.gain},
        text=[p.text for p in curve.points],
        hovertemplate="%{text}<extra></extra>",
    )
    _share_axis(figure, curve.now_percent, curve.share_title, colours)
    figure.update_yaxes(title={"text": curve.title})
    return figure


def cost_chart(curve: CostCurve, colours: Palette) -> go.Figure:
    """The whole plan's cost against one tensor's share, everything else as it is."""
    figure = base(colours)
    figure.add_scatter(
        x=[p.percent for p in curve.points],
        y=[p.cost for p in curve.points],
        mode="lines+markers",
        line={"color": colours.cost, "width": 2},
        marker={"size": 5, "color": colours.cost},
        text=[p.text for p in curve.points],
        hovertemplate="%{text}<extra></extra>",
    )
    if curve.limit is not None:
        figure.add_hline(y=curve.limit, line={"color": colours.accent, "width": 1.5, "dash": "dash"})
        label = {"text": "budget", "font": {"size": 11, "color": colours.accent}, "showarrow": False}
        figure.add_annotation(
            x=0, xref="paper", y=curve.limit, xanchor="left", yanchor="bottom", **label
        )  # fmt: skip
    _share_axis(figure, curve.now_percent, curve.share_title, colours)
    figure.update_yaxes(title={"text": curve.title})
    return figure


def _share_axis(figure: go.Figure, now_percent: float, title: str, colours: Palette) -> None:
    figure.add_vline(x=now_percent, line={"color": colours.accent, "width": 1.5}, opacity=0.6)
    ticks = (0, 25, 50, 75, 100)
    figure.update_xaxes(
        range=[-4, 104], tickvals=ticks, ticktext=[f"{t} %" for t in ticks], title={"text": title}
    )  # fmt: skip


def frontier_chart(info: FrontierInfo, colours: Palette) -> go.Figure:
    """Summed gain against a cost: the best plans, well-known ones, the current one, the budget."""
    figure = base(colours, height=300)
    if info.infeasible_below is not None:
        figure.add_vrect(
            x0=info.x_range[0], x1=info.infeasible_below, fillcolor=colours.soft, opacity=0.09, line_width=0
        )
    figure.add_scatter(
        x=[p.x for p in info.points],
        y=[p.gain for p in info.points],
        mode="lines+markers",
        line={"color": colours.gain, "width": 2, "shape": "hv"},
        marker={"size": 7, "color": colours.gain},
        text=[p.text for p in info.points],
        customdata=[p.place for p in info.points],
        hovertemplate="%{text}<extra></extra>",
        name="frontier",
    )
    figure.add_scatter(
        x=[m.x for m in info.marks],
        y=[m.gain for m in info.marks],
        mode="markers+text",
        marker={"size": 9, "symbol": "diamond-open", "color": colours.soft, "line": {"width": 1.5}},
        text=[m.name for m in info.marks],
        textposition=[m.side for m in info.marks],
        textfont={"size": 11, "color": colours.soft},
        hovertext=[m.text for m in info.marks],
        hovertemplate="%{hovertext}<extra></extra>",
        cliponaxis=False,
        name="well-known plans",
    )
    if info.limit is not None:
        figure.add_vline(x=info.limit, line={"color": colours.accent, "width": 1.5, "dash": "dash"})
        label = {"text": " budget", "font": {"size": 11, "color": colours.accent}, "showarrow": False}
        figure.add_annotation(x=info.limit, y=0, yref="paper", xanchor="left", yanchor="bottom", **label)
    if info.now is not None:
        figure.add_scatter(
            x=[info.now.x],
            y=[info.now.gain],
            mode="markers",
            marker={"size": 14, "color": colours.accent, "line": {"color": colours.paper, "width": 2}},
            text=[info.now.text],
            hovertemplate="%{text}<extra></extra>",
            name="this plan",
        )
    figure.update_xaxes(title={"text": info.x_title}, range=info.x_range)
    figure.update_yaxes(title={"text": info.y_title}, range=info.y_range)
    return figure


def loss_chart(steps: Sequence[int], losses: Sequence[float], total: int, colours: Palette) -> go.Figure:
    """Training loss against the step."""
    figure = base(colours, height=260)
    figure.add_scatter(
        x=list(steps),
        y=list(losses),
        mode="lines",
        line={"color": colours.accent, "width": 2},
        hovertemplate="step %{x}: %{y:.4g}<extra></extra>",
    )
    figure.update_xaxes(title={"text": "Step"}, range=[0, max(total, 1)])
    figure.update_yaxes(title={"text": "Training loss"}, rangemode="tozero")
    return figure
