"""The charts of a session as SVG files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pockgraph.errors import PockError

from .bindings import frontier_figure, loss_figure, shown_rows
from .frontier_plans import FrontierPlans
from .info.chart_svg import chart_svg
from .info.costs import COSTS
from .info.layers_svg import layers_svg
from .info.palette import palette
from .state import State
from .step_timeline import StepTimeline
from .training import Training


class Picture(NamedTuple):
    """A chart: its title, and what draws it; nothing (None) while there is nothing to draw."""

    title: str
    draw: Callable[[State, FrontierPlans, Training], str | None]


def _layers(state: State, frontier: FrontierPlans, training: Training) -> str | None:
    cost = COSTS[state.cost]
    label = f"What each tensor gains, and its {cost.title.lower()}"
    rows = shown_rows(state)
    return layers_svg(rows, state.ratios, cost, state.facts.metric, palette(state.dark), label)


def _chart(label: str, figure: Callable[[State, FrontierPlans, Training], Any]) -> Any:
    def draw(state: State, frontier: FrontierPlans, training: Training) -> str | None:
        found = figure(state, frontier, training)
        return None if found is None else chart_svg(found, label, palette(state.dark).paper)

    return draw


def _timeline(state: State) -> Any:
    """Without the line that a page has for looking at a moment."""
    figure = StepTimeline(state).figure()
    if figure is None:
        return None
    layout = figure["layout"]
    still = [shape for shape in layout["shapes"] if not shape.get("editable")]
    return {**figure, "layout": {**layout, "shapes": still}}


PICTURES: Mapping[str, Picture] = {
    "layers": Picture("Layers", _layers),
    "frontier": Picture(
        "Frontier",
        _chart("Forecast against cost: best plans, well-known plans, and this plan",
               lambda state, frontier, _: frontier_figure(state, frontier)),
    ),
    "timeline": Picture(
        "Memory over a step",
        _chart("Bytes alive over a training step", lambda state, _, __: _timeline(state)),
    ),
    "loss": Picture(
        "Training loss",
        _chart("Training loss against the step",
               lambda state, _, training: loss_figure(training, state.dark)),
    ),
}  # fmt: skip


def picture(key: str, state: State, frontier: FrontierPlans, training: Training) -> str:
    """The text of a chart's SVG file.

    Raises:
        PockError: there is nothing to draw yet.
    """
    drawn = PICTURES[key].draw(state, frontier, training) if state.prediction is not None else None
    if drawn is None:
        raise PockError(f"There is no chart “{PICTURES[key].title}” yet. Take it when the page shows it.")
    return drawn
