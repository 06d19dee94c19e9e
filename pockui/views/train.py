"""Compile the plan and train it in a process of its own, with live loss and cancel."""

from __future__ import annotations

import html
import os
import time
from collections.abc import Mapping

import panel as pn
import panel_material_ui as pmui
import param

from pockgraph.plan import Plan

from ..bindings import loss_figure, metric_figure
from ..info import format as fmt
from ..info.kept_run import KeptRun, ended_text, run_title
from ..info.names import file_name
from ..info.parity import parity_badge
from ..info.training import live_tiles, progress, result_tiles
from ..info.training_code import training_code
from ..jobs import Job
from ..state import State
from ..training import Training
from . import parts
from .train_form import TrainForm

CHART_SECONDS = 0.4  # between drawings of the loss while a run goes on


class Train(pn.viewable.Viewer):
    """Form, the study's runs, and one of them: live, or as the study keeps it."""

    state = param.ClassSelector(class_=State)

    def __init__(self, state: State, training: Training | None = None) -> None:
        super().__init__(state=state)
        self.training = training or Training(state)
        self._form = TrainForm(state, self.training)
        self._start = pmui.Button(label="Compile and train", color="primary", margin=0)
        self._cancel = pmui.Button(label="Cancel", color="error", variant="outlined", margin=0, visible=False)
        self._resume = pmui.Button(
            label="Resume", color="primary", variant="outlined", margin=0, visible=False,
            description="Resume: from the weights that this run has kept, to the step it was to end at.",
        )  # fmt: skip
        self._choice = pmui.Select(
            label="Runs of this study", size="small", margin=0, visible=False, options={"none chosen": ""},
            value="", sizing_mode="stretch_width", sx={**parts.FIELD, "maxWidth": 520, "my": 1},
        )  # fmt: skip
        self._runs = parts.text(visible=False)
        self._why = parts.text(visible=False)
        wraps = {"flexWrap": "wrap", "gap": 1.5, "alignItems": "center", "pb": 1}
        self._buttons = pmui.Row(
            self._start, self._cancel, self._resume, margin=0, sizing_mode="stretch_width", sx=wraps
        )
        self._stage = parts.text(visible=False)
        self._bar = pmui.LinearProgress(
            value=0, variant="determinate", margin=0, sizing_mode="stretch_width", visible=False
        )
        self._failure = parts.text(visible=False)
        self._loss = parts.chart("Training loss against the step")
        self._metric = parts.chart("Validation metric against the step")
        self._loss.visible = self._metric.visible = False
        self._curves = pmui.Grid(
            *(pmui.Grid(chart, size={"xs": 12, "lg": "grow"}) for chart in (self._loss, self._metric)),
            container=True, spacing=1, margin=0, sizing_mode="stretch_width",
        )  # fmt: skip
        self._result = parts.text(stylesheets=[parts.TILES], visible=False)
        self._code = parts.text()

        self._start.on_click(lambda _: self.start())
        self._cancel.on_click(lambda _: self.training.cancel())
        self._resume.on_click(lambda _: self.training.resume())
        self._choice.param.watch(lambda e: self._follow(e.new), "value")
        self._drawn_s = 0.0
        self._code_when_shown = parts.WhenShown(self._show_code)
        self._run_when_shown = parts.WhenShown(self._show_run)
        self._list_when_shown = parts.WhenShown(self._show_list)
        self._drawn: tuple[str, str] = ("", "")  # which run, and its status, was drawn last
        state.param.watch(lambda _: self._show_form(), "facts")
        state.param.watch(self._code_when_shown, "plan")
        self.training.param.watch(self._code_when_shown, "settings")
        state.param.watch(self._run_when_shown, "dark")
        self.training.param.watch(self._run_when_shown, "news")
        for watched, name in ((state, "facts"), (self.training, "job_id")):
            watched.param.watch(self._list_when_shown, name)
        self._show_form()
        self._show_list()
        self._show_run()  # one that is followed already, as after a reload

    def set_shown(self, shown: bool) -> None:
        """Whether anybody sees it: what nobody sees is not drawn until then."""
        self._code_when_shown.set_shown(shown)
        self._run_when_shown.set_shown(shown)
        self._list_when_shown.set_shown(shown)
        if shown:
            self._show_list()  # others may have trained meanwhile
            self.training.devices.look(lambda: self.state.scheduler.soon(self._form.show))

    # ------------------------------------------------------------------ runs

    def start(self) -> None:
        """Begin a run with the current plan and what the form says; nothing while something there is wrong.

        Raises:
            PockError: see `Training.start`.
        """
        if self._form.ok:
            self.training.start()

    def _follow(self, id: str) -> None:
        followed = self.training.job
        if id and (followed is None or followed.id != id):
            self.training.follow(id)

    def tell_unknown(self, id: str) -> None:
        """Say that there is no such run."""
        parts.put(self._failure, parts.problem_html(f"This study keeps no run {id[:40]!r}.", "notice"))

    # ------------------------------------------------------------------ showing

    def _show_form(self) -> None:
        if not self.state.ready:
            return
        reference, why = self.training.reference, self.training.why_not
        with pn.io.hold():
            line = f"Below is the Python that trains this plan. {why}" if why else ""
            parts.put(self._why, parts.problem_html(line, "notice"))
            what, where = html.escape(reference), html.escape(os.getcwd())
            runs = f'<span class="hint">Runs <code>{what}</code>, imported in <code>{where}</code>.</span>'
            parts.put(self._runs, "" if why else runs)
            self._start.disabled = bool(why)
            self._show_code()

    def _show_code(self) -> None:
        s = self.state
        if s.plan is None:
            return
        self._form.show()  # what is as the plan has it
        source = training_code(
            s.plan,
            self.training.reference or s.facts.reference,
            self.training.settings,
            f"{file_name(s.facts.name)}.plan.json",
        )
        self._code.object = (
            '<span class="hint">The same in Python, with the plan from the Export tab:</span>'
            + parts.code(source)
        )

    def _show_run(self) -> None:
        job = self.training.job
        if job is None:
            return
        running = job.status == "running"
        live = running and isinstance(job, Job)
        with pn.io.hold():
            self._start.visible, self._cancel.visible = not live, live
            self._resume.visible = self.training.is_resumable and not self._start.disabled
            parts.put(self._failure, parts.problem_html(job.error if job.status == "failed" else ""))
            now = progress(job.events, job.spec["steps"])
            line = now.text if live else ended_text(job.status, job.events, job.spec["steps"], job.seconds)
            parts.put(self._stage, f'<p role="status">{html.escape(line)}</p>')
            self._bar.visible = live
            if live:
                self._bar.variant = "determinate" if now.share is not None else "indeterminate"
                self._bar.value = round(100 * (now.share or 0))
            self._show_result(job)
        now_s, drawn = time.monotonic(), (job.id, job.status)
        if not live or now_s - self._drawn_s > CHART_SECONDS or drawn != self._drawn:
            self._drawn_s = now_s
            self._show_curves()
        if drawn != self._drawn:
            self._drawn = drawn
            self._list_when_shown()  # the study has it now

    def _show_list(self) -> None:
        """The study's runs, newest first; the one that is followed is chosen."""
        if not self.state.ready:
            return
        options = {run_title(run): run.uid for run in reversed(self.training.kept.runs)}
        followed = self.training.job
        if followed is not None and followed.id not in options.values():
            options = {f"{followed.title} · {followed.status}": followed.id, **options}
        with pn.io.hold():
            chosen = followed.id if followed else ""
            parts.set_choices(self._choice, {"none chosen": "", **options}, chosen)
            self._choice.visible = bool(options)

    def _show_result(self, job: Job | KeptRun) -> None:
        compiled, done = job.last("compiled"), job.last("result") or job.last("stopped")
        facts = self.state.facts
        timed = facts.profile.time.target if facts.profile.time else job.spec["target"]
        running = job.status == "running"
        tiles = result_tiles(
            job.events, self._predicted(job), facts.metric, job.spec["target"], timed, running=running
        )
        out = ""
        for row in (live_tiles(job.events, facts.metric) if running else [], tiles):
            if row:
                inside = "".join(parts.tile_html(*tile) for tile in row)
                out += f'<div class="tiles" style="--columns: {len(row)}; margin-top: 8px">{inside}</div>'
        if compiled:
            took = f", compiled in {fmt.duration(compiled['seconds'])}" if compiled["seconds"] else ""
            size = fmt.size(compiled["bytes"])
            lines = [f"Artefact <code>{html.escape(compiled['path'])}</code>, {size}{took}"]
            if done and done["checkpoint"]:
                lines.append(f"Trained weights <code>{html.escape(done['checkpoint'])}</code>")
            out += f'<p class="files">{"<br>".join(lines)}</p>'
            out += parts.badge_html(*parity_badge(compiled["parity"]))
        parts.put(self._result, out)

    def _predicted(self, job: Job | KeptRun) -> Mapping[str, float]:
        """The plan's figures; those of the artefact alone where it has another optimizer than the plan."""
        if job.spec["optimizer"]:
            compiled = job.last("compiled")
            return compiled["predicted"] if compiled else {}
        return Plan.from_json(job.spec["plan"]).predicted

    def _show_curves(self) -> None:
        training, dark = self.training, self.state.dark
        figures = loss_figure(training, dark), metric_figure(training, dark, self.state.facts.metric)
        for chart, figure in zip((self._loss, self._metric), figures):
            chart.visible = figure is not None
            if figure is not None:
                chart.figure = figure

    def __panel__(self) -> pn.viewable.Viewable:
        return pmui.Column(
            parts.card(
                parts.heading("Train", "Compiles the current plan and trains it in a process of its own."),
                self._why,
                self._runs,
                self._form.row,
                self._form.analysis,
                self._form.problem,
                self._buttons,
                self._choice,
                self._stage,
                self._bar,
                self._failure,
                self._curves,
                self._result,
            ),
            parts.card(self._code),
            margin=0,
            sizing_mode="stretch_width",
            sx={"gap": 2},
        )
