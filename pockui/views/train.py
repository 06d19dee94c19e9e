"""Compile the plan and train it in a process of its own, with live loss and cancel."""

from __future__ import annotations

import html
import math
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui
import param

from pockgraph.errors import PockError, reason
from pockgraph.plan import Plan

from ..info import charts
from ..info import format as fmt
from ..info.names import file_name
from ..info.palette import palette
from ..info.parity import parity_badge
from ..info.training import (
    loss_history,
    progress,
    result_tiles,
    runnable_targets,
    training_code,
    why_not_trainable,
)
from ..jobs import JOBS, Job, Jobs
from ..project import named_reference
from ..state import State
from ..train_job import TrainSpec, checkpoint_of, drop_folder
from . import parts

WORKER = "pockui.train_job"
KILL_S = 2  # in which a killed process is gone
CHART_SECONDS = 0.4  # between drawings of the loss while a run goes on
STATUS = {"done": "Done in {}.", "failed": "Failed after {}.", "cancelled": "Cancelled after {}."}


class Train(pn.viewable.Viewer):
    """Form, live run, result."""

    state = param.ClassSelector(class_=State)
    job_id = param.String(doc="The run that is shown; a page that is reloaded sets it again.")

    def __init__(self, state: State, jobs: Jobs = JOBS, out: Path = Path("out")) -> None:
        """Args:
        out: where artefacts are written.
        """
        super().__init__(state=state)
        self._jobs, self._out = jobs, out
        self._job: Job | None = None
        self._forget: Callable[[], Any] = lambda: None
        small = {"size": "small", "margin": 0, "sx": parts.FIELD}
        targets = runnable_targets()
        self._target = pmui.Select(
            label="Target", options=targets, value=next(iter(targets.values())), width=160, **small
        )
        self._steps = pmui.IntInput(
            label="Steps", value=100, start=1, end=1_000_000, step=50, width=130, **small
        )
        self._rate = pmui.TextInput(label="Learning rate", placeholder="the plan's", width=130, **small)
        self._measure = pmui.Switch(label="Measure time and memory", value=True, margin=0)
        self._start = pmui.Button(label="Compile and train", color="primary", margin=0)
        self._cancel = pmui.Button(label="Cancel", color="error", variant="outlined", margin=0, visible=False)
        self._runs = parts.text(visible=False)
        self._why = parts.text(visible=False)
        self._form = pmui.Row(
            self._target, self._steps, self._rate, self._measure, self._start, self._cancel,
            margin=0, sizing_mode="stretch_width",
            sx={"flexWrap": "wrap", "gap": 1.5, "alignItems": "center", "py": 1},
        )  # fmt: skip
        self._stage = parts.text(visible=False)
        self._bar = pmui.LinearProgress(
            value=0, variant="determinate", margin=0, sizing_mode="stretch_width", visible=False
        )
        self._failure = parts.text(visible=False)
        self._loss = parts.chart("Training loss against the step")
        self._loss.visible = False
        self._result = parts.text(stylesheets=[parts.TILES], visible=False)
        self._code = parts.text()

        self._start.on_click(lambda _: self.start())
        self._cancel.on_click(lambda _: self.cancel())
        for widget in (self._target, self._steps, self._rate):
            widget.param.watch(lambda *_: self._show_code(), "value")
        self._drawn_s = 0.0
        self._code_when_shown = parts.WhenShown(self._show_code)
        self._run_when_shown = parts.WhenShown(self._show_run)
        state.param.watch(lambda _: self._show_form(), "facts")
        state.param.watch(self._code_when_shown, "plan")
        state.param.watch(self._run_when_shown, "dark")
        self._show_form()

    def set_shown(self, shown: bool) -> None:
        """Whether anybody sees it: what nobody sees is not drawn until then."""
        self._code_when_shown.set_shown(shown)
        self._run_when_shown.set_shown(shown)

    # ------------------------------------------------------------------ runs

    def start(self) -> None:
        """Begin a run with the current plan.

        Raises:
            ValueError: the learning rate is no number above 0.
            PockError: there is no place for the artefact.
        """
        s = self.state
        if s.plan is None or (self._job and self._job.status == "running"):
            return
        reference = named_reference(s.facts.reference)
        if why := why_not_trainable(s.facts.reference, reference, str(s.facts.path)):
            raise ValueError(why)
        rate = self._learning_rate()
        job = self._jobs.start(
            f"{s.facts.name}, {len(s.plan.tensors)} tensors",
            WORKER,
            TrainSpec(
                reference=reference,
                plan=s.plan.to_json(),
                target=self._target.value,
                out=str(self._folder()),
                steps=self._steps.value,
                lr=rate,
                measure=self._measure.value,
                study=str(s.facts.path),
            ).to_dict(),
        )
        self.follow(job.id)

    def cancel(self) -> None:
        """End the run; its folder goes away when no artefact is in it yet."""
        job = self._job
        if job is None or job.status != "running":
            return
        job.cancel()
        with suppress(subprocess.TimeoutExpired):
            job.wait(KILL_S)
        drop_folder(job.spec["out"])

    def follow(self, id: str) -> None:
        """Show a run that is in the registry; an unknown id shows none."""
        job = self._jobs.get(id)
        if job is None:
            return
        self._forget()
        self._job = job
        self.job_id = job.id
        doc = pn.state.curdoc
        redraw = self._run_when_shown

        def changed() -> None:  # called in the job's thread
            if doc is None or doc.session_context is None:
                redraw()
            else:
                doc.add_next_tick_callback(redraw)

        self._forget = job.listen(changed)
        redraw()

    def stop_listening(self) -> None:
        """The session ends; the run goes on."""
        self._forget()

    def _folder(self) -> Path:
        """A folder for an artefact, made at once: no other session, nor another server, gets the same.

        Raises:
            PockError: it cannot be made.
        """
        name = f"{file_name(self.state.facts.name)}-{self._target.value}"
        folder, number = self._out / name, 1
        while True:
            try:
                if not checkpoint_of(folder).exists():
                    folder.mkdir(parents=True)
                    return folder
            except FileExistsError:
                pass
            except OSError as e:
                raise PockError(
                    f"Cannot make the folder {folder}: {reason(e)}. Start the dashboard where you may write."
                ) from None
            number += 1
            folder = self._out / f"{name}-{number}"

    def _learning_rate(self) -> float | None:
        typed = self._rate.value.strip()
        if not typed:
            return None
        try:
            rate = float(typed)
        except ValueError:
            rate = math.nan
        if not (rate > 0 and math.isfinite(rate)):
            raise ValueError(
                f"{typed!r} is no learning rate. Type a number above 0, or leave the field empty."
            )
        return rate

    # ------------------------------------------------------------------ showing

    def _show_form(self) -> None:
        if not self.state.ready:
            return
        facts = self.state.facts
        reference = named_reference(facts.reference)
        why = why_not_trainable(facts.reference, reference, str(facts.path))
        with pn.io.hold():
            line = f"{why} Below is the Python that trains this plan." if why else ""
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
        try:
            rate = self._learning_rate()
        except ValueError:
            rate = None
        source = training_code(
            s.plan,
            named_reference(s.facts.reference) or s.facts.reference,
            self._target.value,
            self._steps.value,
            rate,
            f"{file_name(s.facts.name)}.plan.json",
        )
        self._code.object = (
            '<span class="hint">The same in Python, with the plan from the Export tab:</span>'
            + parts.code(source)
        )

    def _show_run(self) -> None:
        job = self._job
        if job is None:
            return
        running = job.status == "running"
        with pn.io.hold():
            self._start.visible, self._cancel.visible = not running, running
            parts.put(self._failure, parts.problem_html(job.error if job.status == "failed" else ""))
            now = progress(job.events, job.spec["steps"])
            line = now.text if running else STATUS[job.status].format(fmt.duration(job.seconds))
            parts.put(self._stage, f'<p role="status">{html.escape(line)}</p>')
            self._bar.visible = running
            if running:
                self._bar.variant = "determinate" if now.share is not None else "indeterminate"
                self._bar.value = round(100 * (now.share or 0))
            self._show_result(job)
        now_s = time.monotonic()
        if not running or now_s - self._drawn_s > CHART_SECONDS:
            self._drawn_s = now_s
            self._show_loss()

    def _show_result(self, job: Job) -> None:
        compiled, done = job.last("compiled"), job.last("result")
        facts = self.state.facts
        timed = facts.profile.time.target if facts.profile.time else job.spec["target"]
        tiles = result_tiles(job.events, self._predicted(job), facts.metric, job.spec["target"], timed)
        out = ""
        if tiles:
            inside = "".join(parts.tile_html(*tile) for tile in tiles)
            out = f'<div class="tiles" style="--columns: {len(tiles)}">{inside}</div>'
        if compiled:
            size, took = fmt.size(compiled["bytes"]), fmt.duration(compiled["seconds"])
            lines = [f"Artefact <code>{html.escape(compiled['path'])}</code>, {size}, compiled in {took}"]
            if done:
                lines.append(f"Trained weights <code>{html.escape(done['checkpoint'])}</code>")
            out += f'<p class="files">{"<br>".join(lines)}</p>'
            out += parts.badge_html(*parity_badge(compiled["parity"]))
        parts.put(self._result, out)

    def _predicted(self, job: Job) -> dict[str, float]:
        return Plan.from_json(job.spec["plan"]).predicted

    def _show_loss(self) -> None:
        if self._job is None:
            return
        steps, losses = loss_history(self._job.events)
        self._loss.visible = bool(steps)
        if steps:
            total = self._job.spec["steps"]
            self._loss.figure = charts.loss_chart(steps, losses, total, palette(self.state.dark))

    def __panel__(self) -> pn.viewable.Viewable:
        return pmui.Column(
            parts.card(
                parts.heading("Train", "Compiles the current plan and trains it in a process of its own."),
                self._why,
                self._runs,
                self._form,
                self._stage,
                self._bar,
                self._failure,
                self._loss,
                self._result,
            ),
            parts.card(self._code),
            margin=0,
            sizing_mode="stretch_width",
            sx={"gap": 2},
        )
