"""Make a study from a task: the form, how far it is, and what went wrong."""

from __future__ import annotations

import html
from collections.abc import Callable

import panel as pn
import panel_material_ui as pmui

from pockgraph.errors import PockError

from ..info.names import file_name
from ..info.study_progress import made_text, making_progress
from ..new_study import NewStudy
from . import parts

BY_NAME = "Another, by its name"
DEPTHS = {"Quick, about a minute": False, "Thorough": True}


class MakeStudy(pn.viewable.Viewer):
    """What `NewStudy` is asked for, and what it says."""

    def __init__(self, making: NewStudy, opened: Callable[[str], None]) -> None:
        """Args:
        opened: called with the study's path, once it is made.
        """
        super().__init__()
        self.making, self._opened = making, opened
        choices = making.choices() | ({BY_NAME: ""} if making.own_tasks else {})
        small = {"size": "small", "margin": 0, "sx": parts.FIELD}
        wide = small | {"sx": {**parts.FIELD, "maxWidth": 420}, "sizing_mode": "stretch_width"}
        self._task = pmui.Select(label="Task", options=choices, value=next(iter(choices.values())), **wide)
        self._reference = pmui.TextInput(
            label="module:task", placeholder="my_project:task", visible=False, width=220, **small
        )
        self._depth = pmui.Select(label="How", options=DEPTHS, value=False, width=200, **small)
        self._name = pmui.TextInput(label="Name", width=220, **small)
        self._make = pmui.Button(label="Make the study", color="primary", margin=0)
        self._cancel = pmui.Button(label="Cancel", color="error", variant="outlined", margin=0)
        self._go_on = pmui.Button(
            label="Go on", variant="outlined", margin=0, description="Go on: measures what is still missing."
        )
        self._where = parts.text()
        self._problem = parts.text(visible=False)
        self._stage = parts.text(visible=False)
        self._bar = pmui.LinearProgress(value=0, margin=0, sizing_mode="stretch_width", visible=False)
        self._is_open = False
        wraps = {"flexWrap": "wrap", "gap": 1.5, "alignItems": "center", "py": 1}
        row = {"margin": 0, "sizing_mode": "stretch_width", "sx": wraps}
        self._form = pmui.Row(self._task, self._reference, self._depth, self._name, **row)
        self._buttons = pmui.Row(self._make, self._cancel, self._go_on, **row)
        self._task.param.watch(lambda _: self._choose(), "value")
        self._reference.param.watch(lambda _: self._choose(), "value")
        self._name.param.watch(lambda _: self._show_where(), "value")
        self._make.on_click(lambda _: self.start())
        self._cancel.on_click(lambda _: making.cancel())
        self._go_on.on_click(lambda _: making.go_on())
        making.param.watch(lambda _: self._show(), "news")
        self._choose()
        self._show()

    def start(self) -> None:
        """Make it; what is wrong with what was asked for is said in place."""
        try:
            self.making.start(self._task.value or self._reference.value, self._name.value, self._depth.value)
        except PockError as e:
            parts.put(self._problem, parts.problem_html(str(e)))

    def _choose(self) -> None:
        self._reference.visible = not self._task.value
        reference = self._task.value or self._reference.value.strip()
        module, _, name = reference.partition(":")
        self._name.value = file_name(module if name in ("", "task") else f"{module}-{name}") if module else ""
        self._show_where()

    def _show_where(self) -> None:
        name = self._name.value.strip().removesuffix(".db")
        where = f"Kept as <code>{html.escape(f'out/{name}.db')}</code>. " if name else ""
        self._where.object = (
            f'<p class="hint">{where}Cancelled or not, what was measured is kept, and the same name goes on '
            "from there.</p>"
        )

    def _show(self) -> None:
        job = self.making.job
        running = self.making.running
        with pn.io.hold():
            self._form.visible = self._where.visible = self._make.visible = not running
            self._cancel.visible = running
            self._go_on.visible = job is not None and job.status in ("cancelled", "failed")
            self._bar.visible = running
            if job is None:
                return
            parts.put(self._problem, parts.problem_html(job.error if job.status == "failed" else ""))
            now = making_progress(job.events)
            line = f"{job.title}: {now.text}" if running else made_text(job.status, job.events)
            parts.put(self._stage, f'<p role="status">{html.escape(line)}</p>' if line else "")
            self._bar.variant = "determinate" if now.share is not None else "indeterminate"
            self._bar.value = round(100 * (now.share or 0))
        if job.status == "done" and not self._is_open:
            self._is_open = True
            self._opened(job.spec["study"])

    def __panel__(self) -> pn.viewable.Viewable:
        return pmui.Column(
            self._form, self._where, self._buttons, self._stage, self._bar, self._problem,
            margin=0, sizing_mode="stretch_width", sx={"gap": 0.5},
        )  # fmt: skip
