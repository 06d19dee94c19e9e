"""A study and the current plan as one HTML page that needs nothing else: no scripts, no other files."""

from __future__ import annotations

import re
import time
from typing import NamedTuple
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from pockgraph.errors import PockError
from pockgraph.search import Constraints
from pockgraph.version import __version__

from .bindings import shown_rows
from .frontier_plans import FrontierPlans
from .info import format as fmt
from .info.costs import COSTS
from .info.figure_tiles import figure_tiles
from .info.kept_run import run_title
from .info.layer_filter import LayerFilter
from .info.layers import TABLE_COLUMNS, table
from .info.palette import DARK, LIGHT
from .info.predictions import COMPARED, ORIGINS, comparison
from .info.python_code import planning_code
from .pictures import PICTURES, picture
from .planned import planned
from .state import State
from .training import Training

DRAWN = ("layers", "frontier", "timeline")
NOTES = {
    "layers": "Gain beside the head alone, and what the whole tensor costs; pale: frozen in this plan.",
    "frontier": "The best plan for each budget, with the interval of its forecast.",
    "timeline": "Bytes alive over one step of this plan, by kind, and the whole of other plans' steps.",
}
RUN_COLUMNS = ("Run", "Tensors", "Steps", "Metric before", "Metric after", "Step", "Took")


class Drawing(NamedTuple):
    """A chart for light and for dark pages, as addresses that hold it."""

    title: str
    note: str
    light: str
    dark: str


def report_html(state: State, frontier: FrontierPlans, training: Training) -> str:
    """The page's text.

    Raises:
        PockError: there is no plan yet.
    """
    if state.plan is None or state.prediction is None:
        raise PockError("There is no plan to report on yet. Take the report when the page shows one.")
    facts, prediction = state.facts, state.prediction
    metric = facts.metric
    environment = Environment(
        loader=PackageLoader("pockui", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    known = facts.known_plans
    return environment.get_template("study_report.html.j2").render(
        light=LIGHT, dark=DARK, name=facts.name, today=time.strftime("%d %B %Y").lstrip("0"),
        version=__version__, device=facts.device, origin=ORIGINS[state.origin], coverage=facts.coverage,
        tiles=figure_tiles(prediction, known["Full"], facts.contribution.baseline.mean, facts.profile,
                           state.budget),
        asked=_asked(state), drawings=[_drawing(key, state, frontier, training) for key in DRAWN],
        compared=COMPARED,
        plans=comparison({"This plan": prediction, **known}, facts.contribution.baseline.mean),
        layer_columns=TABLE_COLUMNS, layers=table(shown_rows(state, LayerFilter()), state.ratios, metric),
        run_columns=RUN_COLUMNS, runs=_runs(training, metric),
        code=planning_code(planned(state)._replace(study=facts.path.name), facts.profile),
    )  # fmt: skip


def _asked(state: State) -> list[str]:
    """What a search keeps to, in words."""
    limits = [f"{COSTS[k].title} up to {COSTS[k].text(v)}" for k, v in state.budget.limits.items()]
    said = limits or ["No budget"]
    if state.locked:
        said.append(f"{len(state.locked)} tensor{'s' * (len(state.locked) > 1)} locked")
    if state.rules != Constraints():
        rules = state.rules.model_dump(exclude_defaults=True, exclude={"locked"})
        said += [k.replace("_", " ") + ("" if v is True else f": {v}") for k, v in rules.items()]
    return said


def _drawing(key: str, state: State, frontier: FrontierPlans, training: Training) -> Drawing:
    svg = picture(key, state, frontier, training)
    here, there = (DARK, LIGHT) if state.dark else (LIGHT, DARK)
    other = recoloured(svg, dict(zip(here, there)))
    light, dark = (other, svg) if state.dark else (svg, other)
    return Drawing(PICTURES[key].title, NOTES[key], _address(light), _address(dark))


def recoloured(svg: str, colours: dict[str, str]) -> str:
    """The same drawing with other colours."""
    return re.sub("|".join(map(re.escape, colours)), lambda found: colours[found[0]], svg)


def _address(svg: str) -> str:
    return f"data:image/svg+xml;charset=utf-8,{quote(svg)}"


def _runs(training: Training, metric: fmt.MetricScale) -> list[tuple[str, ...]]:
    """The study's runs, newest first."""

    def level(value: float | None) -> str:
        return fmt.UNKNOWN if value is None else metric.level(value)

    return [
        (
            run_title(run), f"{len(run.plan.tensors)}", f"{run.began_at + run.steps:,}", level(run.baseline),
            level(run.metric), fmt.milliseconds(run.step_ms), fmt.duration(run.duration_s),
        )
        for run in reversed(training.kept.runs)
    ]  # fmt: skip
