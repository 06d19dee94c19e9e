"""Take the plan away as a file or as Python, and bring one in."""

from __future__ import annotations

import html
import io

import panel as pn
import panel_material_ui as pmui
import param

from pockgraph.errors import PlanError, PockError

from ..downloads import artifact_zip, runs_csv
from ..info.names import file_name
from ..info.training import planning_code
from ..state import State
from ..training import Training
from . import parts

NO_ARTIFACT = "No artefact yet. Compile and train this plan on the Train tab, or choose a run there."
PLAN_BYTES = 8_000_000  # a thousand tensors with every channel listed take less


class Export(pn.viewable.Viewer):
    """Download, import, and the code of the current state; the artefact and the runs, too."""

    state = param.ClassSelector(class_=State)

    def __init__(self, state: State, training: Training) -> None:
        super().__init__(state=state)
        self._training = training
        self._artifact = pmui.FileDownload(
            callback=self._artifact_file, filename="artefact.zip", label="Download artefact (zip)",
            variant="outlined", color="primary", margin=0,
        )  # fmt: skip
        self._runs = pmui.FileDownload(
            callback=lambda: runs_csv(self.state.facts.path), filename="runs.csv",
            label="Download runs (CSV)", variant="outlined", color="primary", margin=0,
        )  # fmt: skip
        self._run = parts.text()
        self._download = pmui.FileDownload(
            callback=self._file, filename="plan.json", label="Download plan", color="primary", margin=0
        )
        self._upload = pmui.FileInput(
            accept=".json,application/json",
            label="Import plan",
            variant="outlined",
            margin=0,
            max_file_size=PLAN_BYTES,
        )
        self._rejected = parts.text(visible=False)
        self._accepted = parts.text(visible=False)
        self._summary = parts.text()
        self._code = parts.text()
        self._upload.param.watch(lambda _: self._import(), "value")
        show = parts.WhenShown(self._show)
        self.set_shown = show.set_shown
        state.param.watch(show, ["plan", "locked", "rules", "budget", "problem"])
        training.param.watch(show, "news")
        self._show()

    def _artifact_file(self) -> io.BytesIO:
        compiled = self._training.job and self._training.job.last("compiled")
        if not compiled:
            raise PockError(NO_ARTIFACT)
        return artifact_zip(compiled["path"])

    def _show_run(self) -> None:
        """Which artefact there is, or how to get one; the names of the files."""
        name, job = file_name(self.state.facts.name), self._training.job
        compiled = job.last("compiled") if job else None
        self._artifact.disabled = compiled is None
        self._runs.filename = f"{name}.runs.csv"
        if job is None or compiled is None:
            self._run.object = parts.hint_html(NO_ARTIFACT)
            return
        self._artifact.filename = f"{name}-{job.spec['target']}.zip"
        self._run.object = parts.hint_html(
            f"The artefact in {compiled['path']}, of the run on the Train tab, as it was before training. A "
            "device loads the folder in it."
        )

    def _file(self) -> io.BytesIO:
        if self.state.plan is None:
            raise PlanError("There is no plan yet. Download it when its figures are there.")
        return io.BytesIO(self.state.plan.to_json().encode())

    def _import(self) -> None:
        if not self._upload.value:
            return
        name = str(self._upload.filename or "the file")
        parts.put(self._accepted, "")
        try:
            if len(self._upload.value) > PLAN_BYTES:
                raise PlanError(f"{name} is larger than any plan. Choose a plan's JSON file.")
            self.state.import_plan(self._upload.value.decode("utf-8"), name)
        except UnicodeDecodeError:
            parts.put(
                self._rejected, parts.problem_html(f"{name} is not a text file. Choose a plan's JSON file.")
            )
            return
        except PlanError as e:
            parts.put(self._rejected, parts.problem_html(str(e)))
            return
        parts.put(self._rejected, "")
        parts.put(self._accepted, f'<p role="status">{html.escape(name)} is the current plan now.</p>')

    def _show(self) -> None:
        s = self.state
        with pn.io.hold():
            self._show_run()
            # A button that changes while the browser draws it for the first time may miss that: it is
            # enabled from the start, and changes only where a request could not be met.
            self._download.disabled = s.plan is None and s.problem is not None
            if s.plan is None:
                return
            file = f"{file_name(s.facts.name)}.plan.json"
            self._download.filename = file
            parts_trained = sum(t.channels is not None for t in s.plan.tensors.values())
            self._summary.object = (
                f'<span class="hint">{len(s.plan.tensors)} of {len(s.plan.model)} tensors learn, '
                f"{parts_trained} of them in part. The file names every channel, so training and the device "
                "read the same ones.</span>"
            )
            if s.origin == "search":
                source = planning_code(str(s.facts.path), s.budget, s.asked, file)
                self._code.object = '<span class="hint">The same search in Python:</span>' + parts.code(
                    source
                )
            else:
                source = f"import pockgraph as pg\n\nplan = pg.Plan.load({file!r})"
                self._code.object = '<span class="hint">Read it in Python:</span>' + parts.code(source)

    def __panel__(self) -> pn.viewable.Viewable:
        buttons = pmui.Row(
            self._download, self._upload, margin=0, sx={"gap": 1.5, "flexWrap": "wrap", "py": 1}
        )
        return pmui.Column(
            parts.card(
                parts.heading("Export", "The plan as a file that people keep and share."),
                self._summary,
                buttons,
                self._rejected,
                self._accepted,
            ),
            parts.card(
                parts.heading("Artefact and runs", "What was compiled, and what the study keeps."),
                self._run,
                pmui.Row(self._artifact, self._runs, margin=0, sx={"gap": 1.5, "flexWrap": "wrap", "py": 1}),
            ),
            parts.card(self._code),
            margin=0,
            sizing_mode="stretch_width",
            sx={"gap": 2},
        )
