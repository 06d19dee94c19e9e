"""The training graph by block and layer: what pruning leaves, what compiling changes, what a target lacks."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui
import param

from pockgraph.errors import PockError
from pockgraph.profile.graph_summary import graph_summary
from pockgraph.runtime.artifact_files import read_manifest
from pockgraph.runtime.manifest import Manifest

from ..components.web import Tree
from ..info.graph import COLUMNS, NO_LAYERS, passes_table, totals, tree_rows
from ..info.parity import parity_badge
from ..info.training import runnable_targets, target_name
from ..scheduling import Trailing
from ..state import State
from ..target_check import TargetCheck
from ..training import Training
from . import parts

USE = (
    "Operators, the bytes they make and what they compute, of the whole training step → of this plan's. Open "
    "a block for its layers, a layer for its operators."
)
NOTHING_COMPILED = (
    "Nothing compiled yet. Compile and train this plan on the Train tab, or choose a run there."
)
PROBLEMS = ("Operator", "Needed by the", "Layer", "Source", "Why not")


class Graph(pn.viewable.Viewer):
    """A tree of the graph, the last artefact, and a question to a target."""

    state = param.ClassSelector(class_=State)

    def __init__(self, state: State, training: Training) -> None:
        super().__init__(state=state)
        self._training = training
        self.check = TargetCheck(state, training)
        self._totals, self._lacks, self._compiled = parts.text(), parts.text(visible=False), parts.text()
        self._tree = Tree(
            sizing_mode="stretch_width", margin=0, first="Block", label="Training graph",
            columns=[{"title": title, "help": help} for title, help in COLUMNS],
        )  # fmt: skip
        targets = runnable_targets()
        self._target = pmui.Select(
            label="Target", options=targets, value=next(iter(targets.values())), width=160, size="small",
            margin=0, sx=parts.FIELD,
        )  # fmt: skip
        self._ask = pmui.Button(label="Check this plan", variant="outlined", size="small", margin=0)
        self._why, self._answer = parts.text(visible=False), parts.text(visible=False)
        self._ask.on_click(lambda _: self.check.start(self._target.value))
        draw, compiled = parts.WhenShown(self._show), parts.WhenShown(self._show_compiled)
        ask = parts.WhenShown(self._show_check)
        self._when_shown = draw, compiled, ask
        state.param.watch(Trailing(state.scheduler, draw), "prediction")
        state.param.watch(draw, "facts")
        state.param.watch(ask, ["facts", "plan"])
        training.param.watch(compiled, ["news", "job_id"])
        self.check.param.watch(ask, "news")
        parts.draw_later(self._when_shown)

    def set_shown(self, shown: bool) -> None:
        """Whether anybody sees it: what nobody sees is not drawn until then."""
        for draw in self._when_shown:
            draw.set_shown(shown)

    def _show(self) -> None:
        s = self.state
        if not s.ready or s.prediction is None:
            return
        profile = s.facts.profile
        layers = graph_summary(profile, s.prediction.choice)
        with pn.io.hold():
            self._totals.object = parts.hint_html(totals(layers, s.facts.name))
            self._tree.visible = profile.has_layers
            missing = "" if profile.has_layers else NO_LAYERS.format(s.facts.path)
            parts.put(self._lacks, parts.problem_html(missing, "notice"))
            if profile.has_layers:
                self._tree.rows = tree_rows(layers)

    # ------------------------------------------------------------------ the artefact

    def _show_compiled(self) -> None:
        """The artefact of the run that is followed."""
        job = self._training.job
        compiled = job.last("compiled") if job else None
        manifest = _manifest(compiled["path"]) if compiled else None
        if compiled is None or manifest is None:
            self._compiled.object = parts.hint_html(NOTHING_COMPILED)
            return
        lines = passes_table(manifest)
        table = parts.table(("After pruning", "Operators"), lines, label="What compiling changed")
        if not manifest.passes:
            table = parts.hint_html("It was compiled by a version that did not count operators.")
        elif not lines:
            table = parts.hint_html("Compiling changed the number of operators nowhere.")
        where = html.escape(f"{compiled['path']}, for {target_name(manifest.target)}")
        self._compiled.object = (
            f'<span class="hint">{where}</span>{table}{parts.badge_html(*parity_badge(manifest.parity_json))}'
        )

    # ------------------------------------------------------------------ the target

    def _show_check(self) -> None:
        s, check = self.state, self.check
        if not s.ready:
            return
        why = check.why_not
        with pn.io.hold():
            parts.put(self._why, parts.problem_html(why, "notice"))
            self._ask.disabled = bool(why) or check.running or s.plan is None
            parts.put(self._answer, self._answer_html())

    def _answer_html(self) -> str:
        job = self.check.job
        if job is None:
            return ""
        if job.status == "failed":
            return parts.problem_html(job.error)
        checked, stage = job.last("checked"), job.last("stage")
        if checked is None:
            return f'<p role="status">{html.escape(stage["text"] if stage else "Starting")} …</p>'
        said = _answer(checked, target_name(job.spec["target"]))
        if not self.check.is_current:
            said += parts.hint_html("The plan has changed since. Check it again.")
        return said

    def __panel__(self) -> pn.viewable.Viewable:
        ask = pmui.Row(
            self._target, self._ask, margin=0, sx={"gap": 1.5, "flexWrap": "wrap", "alignItems": "center"}
        )
        return pmui.Column(
            parts.card(parts.heading("Training graph", USE), self._totals, self._lacks, self._tree),
            parts.card(parts.heading("Compiled", "What the last artefact was made of."), self._compiled),
            parts.card(
                parts.heading(
                    "Operators that a target lacks",
                    "Derives the graph from the task, in a process of its own, and asks the target.",
                ),
                self._why, ask, self._answer,
            ),
            margin=0,
            sizing_mode="stretch_width",
            sx={"gap": 2},
        )  # fmt: skip


def _manifest(path: str) -> Manifest | None:
    """Of an artefact; None where it is not any more."""
    try:
        return read_manifest(Path(path))
    except (PockError, OSError):
        return None


def _answer(checked: dict[str, Any], target: str) -> str:
    """What a target said about a plan."""
    if checked["ok"]:
        return f'<p role="status">{html.escape(target)} lowers every operator of this plan.</p>'
    lines = [
        [p["op"], p["needed_by"], p["layer"] or "–", p["source"] or "–", p["reason"]]
        for p in checked["problems"]
    ]
    others = ", ".join(target_name(t) for t in checked["other_targets"])
    more = f" As it is, the plan compiles for {others}." if others else ""
    return parts.table(PROBLEMS, lines, label="Operators that the target lacks") + (
        f'<p role="status">{html.escape(checked["advice"] + more)}</p>'
    )
